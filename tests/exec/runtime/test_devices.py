"""Which rank uses which device, and what carries arrays between them."""

import re
import socket
from collections.abc import Callable

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError, UsageError
from exec.runtime.devices import DeviceWire, connect_devices, place_rank
from exec.runtime.job import together
from exec.transport.nccl import NcclTransport
from exec.transport.staged import StagedTransport
from exec.transport.threads import ThreadTransport, run_threads

HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def _emulated() -> None:
    try:
        open_device(DeviceKind.EMULATED, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))


def connected(
    ranks: int, asked: DeviceWire, index_of: Callable[[int], int]
) -> list[tuple[type, str]]:
    """Return what each rank is connected by, and what the user is told."""

    def body(wire: ThreadTransport) -> tuple[type, str]:
        device = open_device(DeviceKind.EMULATED, index_of(wire.rank))
        transport, note = together(wire, lambda: connect_devices(wire, device, asked))
        return type(transport), note

    return run_threads(ranks, body)


def test_ranks_of_a_node_take_its_devices_in_turn() -> None:
    assert run_threads(5, lambda wire: place_rank(wire, 2)) == [0, 1, 0, 1, 0]
    assert run_threads(3, lambda wire: place_rank(wire, None)) == [0, 1, 2]


def test_ranks_with_a_device_each_are_connected_by_nccl() -> None:
    for asked in (DeviceWire.AUTO, DeviceWire.NCCL):
        assert connected(3, asked, lambda rank: rank) == [(NcclTransport, "")] * 3


def test_staged_is_what_is_asked_for_and_needs_no_word() -> None:
    assert connected(2, DeviceWire.STAGED, lambda rank: rank) == [(StagedTransport, "")] * 2


def test_lone_rank_talks_to_nobody() -> None:
    assert connected(1, DeviceWire.AUTO, lambda rank: rank) == [(StagedTransport, "")]
    assert connected(1, DeviceWire.NCCL, lambda rank: rank) == [(NcclTransport, "")]


def test_ranks_that_share_a_device_are_staged_and_told_so() -> None:
    note = f"messages are staged through the host: rank 1 and rank 2 are both on GPU emulated-1 of {HERE}"
    assert connected(3, DeviceWire.AUTO, lambda rank: min(rank, 1)) == [(StagedTransport, note)] * 3


def test_nccl_between_ranks_that_share_a_device_is_refused_with_what_to_do() -> None:
    message = (
        f"rank 0 and rank 1 are both on GPU emulated-0 of {HERE}: NCCL needs a GPU a rank; use "
        f"--transport mpi (host-staged), fewer ranks, or more GPUs"
    )

    def body(wire: ThreadTransport) -> str:
        device = open_device(DeviceKind.EMULATED, 0)
        with pytest.raises(UsageError, match=re.escape(message)):
            connect_devices(wire, device, DeviceWire.NCCL)
        return "refused"

    assert run_threads(2, body) == ["refused"] * 2
