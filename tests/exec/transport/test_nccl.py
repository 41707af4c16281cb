"""What NCCL's semantics allow: programs end, and what it cannot carry is refused by name."""

import sys

import pytest
from hypothesis import given, settings

from exec.device.kind import DeviceKind
from exec.device.nccl import new_group_id
from exec.errors import DeviceError, TransportError
from exec.plan.strategy import MASTERS, Strategy
from exec.program.check import check_program
from exec.program.program import Program
from exec.transport.nccl import NcclTransport
from tests.exec.program.test_check import two_ranks
from tests.exec.random_plans import Case, all_cases, schemes
from tests.exec.transport.conformance import NCCL_CANNOT
from tests.exec.transport.drive import drive
from tests.exec.transport.on_devices import run_on_devices
from tests.exec.transport.placed import Case as Conformance

pytestmark = pytest.mark.usefixtures("emulated")
SETTINGS = settings(max_examples=40)
CARRIED = (Strategy.AVERAGING, *MASTERS, Strategy.SERVER)


def run(program: Program, seed: int = 1) -> None:
    """Drive ``program`` on emulated devices; it raises if the lanes wait for one another for ever."""
    ranks = program.mesh.world_size
    run_on_devices(DeviceKind.EMULATED, ranks, lambda wire: drive(program, wire), seed=seed)


@SETTINGS
@given(all_cases(range(2, 7)))
def test_every_step_ends(case: Case) -> None:
    run(case.expanded)


@SETTINGS
@given(schemes(range(2, 6), CARRIED))
def test_every_scheme_ends(case: Case) -> None:
    for segment in case.segments(2 * case.workload.global_batch):
        run(segment.program)


def test_ranks_that_send_to_each_other_first_end() -> None:
    program = two_ranks(
        "comm send a[0:4] to=dp=1 tag=1 id=give\ncomm receive b[0:4] from=dp=1 tag=1 id=take\ncomm wait give",
        "comm send a[0:4] to=dp=0 tag=1 id=give\ncomm receive b[0:4] from=dp=0 tag=1 id=take\ncomm wait give",
    )
    check_program(program)
    run(program)


def test_ranks_that_receive_from_each_other_first_never_end() -> None:
    program = two_ranks(
        "comm receive b[0:4] from=dp=1 tag=1 id=take\ncomm send a[0:4] to=dp=1 tag=1 id=give",
        "comm receive b[0:4] from=dp=0 tag=1 id=take\ncomm send a[0:4] to=dp=0 tag=1 id=give",
    )
    with pytest.raises(DeviceError, match="waits for what never comes"):
        run(program)


@pytest.mark.parametrize("case", NCCL_CANNOT, ids=lambda case: case.__name__)
def test_what_it_cannot_do_is_refused_or_seen(
    case: Conformance,
    emulated: DeviceKind,
) -> None:
    with pytest.raises((TransportError, DeviceError, AssertionError)):
        run_on_devices(emulated, 2, case)
    assert NCCL_CANNOT[case]


def test_message_without_a_channel_is_refused(emulated: DeviceKind) -> None:
    def body(wire: NcclTransport) -> None:
        part = wire.split(0)  # its channels are not those of the whole
        if wire.rank == 0:
            part.send(wire.device.empty(3, "float32"), 1, 7)

    with pytest.raises(
        TransportError, match="a channel from rank 0 to rank 1 for tag 7; all ranks"
    ):
        run_on_devices(emulated, 2, body)


def test_receive_from_any_rank_names_the_other_transport(emulated: DeviceKind) -> None:
    def body(wire: NcclTransport) -> None:
        wire.receive_any(wire.device.empty(3, "float32"), 7)

    with pytest.raises(TransportError, match=r"cannot receive 3 float32 .*--transport mpi"):
        run_on_devices(emulated, 1, body)


def test_channels_are_made_once(emulated: DeviceKind) -> None:
    def body(wire: NcclTransport) -> None:
        before = len(wire._family.groups)
        wire.prepare([(0, 1), (1, 0)])  # as at the start of the job
        assert len(wire._family.groups) == before == 3

    run_on_devices(emulated, 2, body)


def test_stopped_transport_is_found_out_by_a_check(emulated: DeviceKind) -> None:
    def body(wire: NcclTransport) -> None:
        wire.check()
        wire.gather_objects(None)
        if wire.rank == 0:
            wire.stop()
        wire.gather_objects(None)
        wire.check()

    with pytest.raises(DeviceError, match="has left the group"):
        run_on_devices(emulated, 2, body)


def test_missing_library_is_named_with_its_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(DeviceError, match=r"CuPy and NCCL .*nvidia-nccl-cu13.* --transport mpi"):
        new_group_id()
