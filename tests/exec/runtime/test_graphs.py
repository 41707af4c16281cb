"""Any network, on any mesh and by any scheme, trains to what its plan means."""

import pytest
from hypothesis import assume, given, settings

from exec.network.modules import BatchNorm2d
from exec.plan.strategy import SHARED, Strategy
from exec.program.ops import Algorithm
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_graphs import draw_graph
from tests.exec.random_plans import Case
from tests.exec.runtime.graphs import (
    SCHEMES,
    keep_meaning,
    mesh_cases,
    scheme_cases,
    seeded_graphs,
)
from tests.exec.runtime.sent_bytes import program_nbytes, step_nbytes

SETTINGS = settings(derandomize=True, deadline=None, max_examples=30)
COUNT = 3


def judge(case: Case) -> None:
    """Assert that ``case`` trains as told on threads; leave it out if it is at a kink."""
    assume(run_threads(case.mesh.world_size, lambda wire: keep_meaning(case, wire))[0])


@SETTINGS
@given(mesh_cases(range(1, 7)))
def test_any_network_on_any_mesh_trains_as_told(case: Case) -> None:
    """Weights, losses and running statistics are those of whole batches, told plainly.

    Each part of a batch that a rank takes in one microbatch is normalised by its own statistics,
    with sync-batchnorm that of all ranks; a rank's parts move its running statistics one after
    the other, and those of the network are the mean over ranks.
    """
    judge(case)


@SETTINGS
@given(mesh_cases(range(1, 5), draw_graph))
def test_any_wild_graph_on_any_mesh_trains_as_told(case: Case) -> None:
    judge(case)


@SETTINGS
@given(scheme_cases(range(1, 5)))
def test_any_network_by_any_scheme_trains_as_told(case: Case) -> None:
    """Replicas normalise by their own statistics, of which the mean is taken at the end.

    Averages, the master's too, are of weights only; servers get gradients only.
    """
    judge(case)


@settings(SETTINGS, max_examples=15)
@given(scheme_cases([1], SHARED))
def test_one_rank_in_shared_memory_trains_as_serial(case: Case) -> None:
    judge(case)


@SETTINGS
@given(mesh_cases(range(1, 7)))
def test_every_network_s_plan_sends_what_its_program_says(case: Case) -> None:
    ranks = case.mesh.world_size
    sent = run_threads(ranks, lambda wire: step_nbytes(case, wire))
    assert sent == [program_nbytes(case, rank) for rank in range(ranks)]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_network_on_mpi_trains_as_told(launch: Launch, ranks: int) -> None:
    ended = launch(ranks, "tests.exec.runtime.graphs", str(COUNT), timeout_s=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = len(seeded_graphs(COUNT, ranks, seed=ranks))
    assert ended.stdout == f"{cases} cases mean what they say on {ranks} ranks\n"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_graphs_for_mpi_cover_strategies_axes_and_normalisation(ranks: int) -> None:
    drawn = seeded_graphs(COUNT, ranks, seed=ranks)
    found = {case.options.strategy for case in drawn}
    assert found == {Strategy.HYBRID, Strategy.KRIZHEVSKY, *SCHEMES}
    for axis in ("dp", "pp", "tp"):
        assert any(getattr(case.mesh, axis) == ranks for case in drawn)
    assert {case.options.sync_batchnorm for case in drawn} == {False, True}
    assert {case.options.overlap for case in drawn} == {False, True}
    assert any(case.options.stages for case in drawn)
    assert len({case.options.algorithm for case in drawn}) > len(Algorithm) // 2
    normalising = [
        case
        for case in drawn
        if any(isinstance(node.module, BatchNorm2d) for node in case.workload.network.nodes)
    ]
    assert 0.2 < len(normalising) / len(drawn) < 0.9
