"""A rank whose peer has failed does not wait for ever, on its device or for a message."""

import re
import threading

import numpy as np
import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError, TransportError
from exec.runtime.watchdog import Watchdog
from exec.transport.nccl import NcclTransport
from exec.transport.threads import ThreadTransport, run_threads

INTERVAL_S = 0.01


@pytest.fixture(autouse=True)
def _emulated() -> None:
    try:
        open_device(DeviceKind.EMULATED, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))


def connect(wire: ThreadTransport) -> NcclTransport:
    transport = NcclTransport(wire, open_device(DeviceKind.EMULATED, wire.rank))
    transport.prepare([(1, 0)])
    return transport


def watchdogs() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("watchdog")]


def test_failed_group_ends_ranks_that_wait_for_messages_of_the_host() -> None:
    seen: list[str] = []

    def body(wire: ThreadTransport) -> None:
        transport = connect(wire)
        with Watchdog(transport, INTERVAL_S):
            if wire.rank == 1:
                transport.stop()  # as if NCCL had failed here
            try:
                wire.receive(np.empty(1), 1 - wire.rank, 0).Wait()
            except TransportError as error:
                seen.append(str(error))

    run_threads(2, body)
    assert seen[0] == seen[1]
    assert re.fullmatch(r"error: rank [01] of 2 failed: rank 1 has left the group", seen[0])
    assert watchdogs() == []


def test_failed_control_plane_ends_a_rank_that_waits_on_its_device() -> None:
    has_ended = threading.Event()

    def body(wire: ThreadTransport) -> None:
        transport = connect(wire)
        if wire.rank == 1:
            wire.world.fail("rank 1 is lost")
            assert has_ended.wait(30)
            return
        try:
            with Watchdog(transport, INTERVAL_S):
                transport.receive(transport.device.empty(3, "float32"), 1, 0)
                transport.device.synchronize()  # it comes back, with nothing received
            with pytest.raises(TransportError, match="rank 1 is lost"):
                transport.check()
        finally:
            has_ended.set()

    run_threads(2, body)
    assert watchdogs() == []


def test_job_that_ends_well_is_left_alone() -> None:
    def body(wire: ThreadTransport) -> float:
        transport = connect(wire)
        array = transport.device.upload(np.full(3, wire.rank + 1.0))
        with Watchdog(transport, INTERVAL_S):
            for _ in range(3):
                if wire.rank == 1:
                    transport.send(array, 0, 0).Wait()
                else:
                    transport.receive(array, 1, 0).Wait()
                wire.gather_objects(None)
        transport.close()
        return float(transport.device.read(array)[0])

    assert run_threads(2, body) == [2.0, 2.0]
    assert watchdogs() == []
