"""On a device everything trains as on the host: the same oracle judges it, and the same bytes are held."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError
from exec.plan.strategy import SHARED
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_graphs import draw_graph
from tests.exec.random_plans import Case
from tests.exec.runtime.graphs import keep_meaning, mesh_cases, scheme_cases, seeded_graphs

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
COUNT = 1


@pytest.fixture(
    scope="module",
    params=[DeviceKind.EMULATED, pytest.param(DeviceKind.GPU, marks=pytest.mark.gpu)],
)
def kind(request: pytest.FixtureRequest) -> DeviceKind:
    """Return the kind of a device that there is, or skip with the reason why there is none."""
    found: DeviceKind = request.param
    try:
        open_device(found, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))
    return found


def on(case: Case, kind: DeviceKind) -> Case:
    """Return ``case`` with arrays on a device."""
    return replace(case, options=replace(case.options, device=kind))


def judge(case: Case) -> None:
    """Assert that ``case`` trains as told on threads; leave it out if it is at a kink."""
    assume(run_threads(case.mesh.world_size, lambda wire: keep_meaning(case, wire))[0])


def test_any_network_on_any_mesh_trains_on_a_device_as_told(kind: DeviceKind) -> None:
    @SETTINGS
    @given(mesh_cases(range(1, 5)))
    def keep(case: Case) -> None:
        judge(on(case, kind))

    keep()


def test_any_wild_graph_on_any_mesh_trains_on_a_device_as_told(kind: DeviceKind) -> None:
    @SETTINGS
    @given(mesh_cases(range(1, 4), draw_graph))
    def keep(case: Case) -> None:
        judge(on(case, kind))

    keep()


def test_any_network_by_any_scheme_trains_on_a_device_as_told(kind: DeviceKind) -> None:
    @SETTINGS
    @given(scheme_cases(range(1, 5)))
    def keep(case: Case) -> None:
        judge(on(case, kind))

    keep()


def test_one_rank_in_a_device_s_shared_memory_trains_as_serial(kind: DeviceKind) -> None:
    @settings(SETTINGS, max_examples=10)
    @given(scheme_cases([1], SHARED))
    def keep(case: Case) -> None:
        judge(on(case, kind))

    keep()


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_network_on_devices_and_mpi_trains_as_told(
    kind: DeviceKind, launch: Launch, ranks: int
) -> None:
    ended = launch(ranks, "tests.exec.runtime.graphs", str(COUNT), kind, timeout_s=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = len(seeded_graphs(COUNT, ranks, seed=ranks))
    assert ended.stdout == f"{cases} cases mean what they say on {ranks} ranks\n"
