"""Ranks as threads, each with a device of its own, and NCCL between them or its emulation."""

from collections.abc import Callable

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError
from exec.transport.nccl import NcclTransport
from exec.transport.threads import ThreadTransport, run_threads
from tests.exec.transport.placed import get_ready


def run_on_devices(
    kind: DeviceKind, ranks: int, body: Callable[[NcclTransport], object], *, seed: int = 1
) -> None:
    """Run ``body`` on every rank; skip where there are not as many GPUs, or no NCCL."""
    try:
        for index in range(ranks if kind is DeviceKind.GPU else 0):
            open_device(kind, index).close()
    except DeviceError as error:
        pytest.skip(str(error))

    def run(wire: ThreadTransport) -> None:
        device = open_device(kind, wire.rank, seed=seed + wire.rank)
        transport = NcclTransport(wire, device)
        try:
            get_ready(transport)
            body(transport)
            device.synchronize()
            transport.gather_objects(None)
        except BaseException:
            transport.stop()  # or the others would wait for this rank
            raise
        transport.close()
        device.close()

    run_threads(ranks, run)
