"""On a device everything trains as on the host: the same oracle judges it, and the same bytes are held."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError, UsageError
from exec.plan.strategy import SHARED, Strategy
from exec.program.channels import check_order
from exec.runtime.backend import OnDevice
from exec.runtime.devices import DeviceWire
from exec.runtime.opening import backend_of
from exec.transport.nccl import NcclTransport
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_graphs import draw_graph
from tests.exec.random_plans import Case
from tests.exec.runtime.graphs import (
    SCHEMES,
    graph_plan,
    keep_meaning,
    mesh_cases,
    scheme_cases,
    seeded_graphs,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
COUNT = 1


def on(case: Case, device_kind: DeviceKind) -> Case:
    """Return ``case`` with arrays on a device."""
    return replace(case, options=replace(case.options, device=device_kind))


def judge(case: Case) -> None:
    """Assert that ``case`` trains as told by ranks that are threads; leave it out if it is at a kink."""

    def keep(wire: Transport) -> bool:
        return keep_meaning(case, wire, backend_of(graph_plan(case), wire, DeviceWire.STAGED))

    assume(run_threads(case.mesh.world_size, keep)[0])


def test_any_network_on_any_mesh_trains_on_a_device_as_told(device_kind: DeviceKind) -> None:
    @SETTINGS
    @given(mesh_cases(range(1, 5)))
    def keep(case: Case) -> None:
        judge(on(case, device_kind))

    keep()


def test_any_wild_graph_on_any_mesh_trains_on_a_device_as_told(device_kind: DeviceKind) -> None:
    @SETTINGS
    @given(mesh_cases(range(1, 4), draw_graph))
    def keep(case: Case) -> None:
        judge(on(case, device_kind))

    keep()


def test_any_network_by_any_scheme_trains_on_a_device_as_told(device_kind: DeviceKind) -> None:
    @SETTINGS
    @given(scheme_cases(range(1, 5)))
    def keep(case: Case) -> None:
        judge(on(case, device_kind))

    keep()


def test_one_rank_in_a_device_s_shared_memory_trains_as_serial(device_kind: DeviceKind) -> None:
    @settings(SETTINGS, max_examples=10)
    @given(scheme_cases([1], SHARED))
    def keep(case: Case) -> None:
        judge(on(case, device_kind))

    keep()


def keep_on_groups(case: Case, device_kind: DeviceKind, wire: Transport, seed: int) -> bool:
    """Raise unless ``case`` trains as told with a device a rank, and all in the order of streams."""
    device = open_device(device_kind, wire.rank, seed=seed)
    backend = OnDevice(device_kind, device, NcclTransport(wire, device))
    return keep_meaning(on(case, device_kind), wire, backend)


def judge_on_groups(case: Case, device_kind: DeviceKind, seed: int) -> None:
    """Assert that ``case`` trains as told over groups of devices, if these can carry it."""
    try:
        for segment in case.segments(num_samples=2 * case.workload.global_batch + 1):
            check_order(segment.program)
    except UsageError:
        assume(False)  # only the host can carry it
    ranks = case.mesh.world_size
    assume(run_threads(ranks, lambda wire: keep_on_groups(case, device_kind, wire, seed))[0])


@pytest.fixture
def groups(device_kind: DeviceKind) -> Iterator[DeviceKind]:
    """Return the kind of four devices in groups, or skip with the reason why there are none."""
    try:
        devices = [open_device(device_kind, index) for index in range(4)]
        devices[0].new_group_id()
    except DeviceError as error:
        pytest.skip(str(error))
    yield device_kind
    for device in devices:
        device.close()


def test_any_network_on_any_mesh_trains_on_groups_of_devices_as_told(groups: DeviceKind) -> None:
    @SETTINGS
    @given(mesh_cases(range(1, 5)), st.integers(0, 1000))
    def keep(case: Case, seed: int) -> None:
        judge_on_groups(case, groups, seed)

    keep()


def test_any_network_by_any_scheme_trains_on_groups_of_devices_as_told(groups: DeviceKind) -> None:
    without_memory = [each for each in SCHEMES if each not in (*SHARED, Strategy.ASYNC_SERVER)]

    @SETTINGS
    @given(scheme_cases(range(1, 5), without_memory), st.integers(0, 1000))
    def keep(case: Case, seed: int) -> None:
        judge_on_groups(case, groups, seed)

    keep()


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_network_on_devices_and_mpi_trains_as_told(
    device_kind: DeviceKind, launch: Launch, ranks: int
) -> None:
    ended = launch(ranks, "tests.exec.runtime.graphs", str(COUNT), device_kind, timeout_s=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = len(seeded_graphs(COUNT, ranks, seed=ranks))
    assert ended.stdout == f"{cases} cases mean what they say on {ranks} ranks\n"
