"""Laws of placement: what the names of nodes say of the ranks on them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.step import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.runtime.job import AgreedError
from exec.runtime.placement import placed, ranks_in_a_row
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 8))
def test_ranks_in_blocks_are_counted_and_the_last_node_may_have_fewer(
    nodes: int, size: int, fewer: int
) -> None:
    names = [f"node{rank // size}" for rank in range(nodes * size - min(fewer, size - 1))]
    assert ranks_in_a_row(names) == (size if nodes > 1 else len(names))


@pytest.mark.parametrize("names", ["abab", "abb", "aabbbc", "aaba", "aabccc"])
def test_ranks_that_are_dealt_round_or_unevenly_are_refused(names: str) -> None:
    with pytest.raises(UsageError, match=r"ranks must fill one node after the other, .* or give --ranks-per-node"):  # fmt: skip
        ranks_in_a_row(list(names))


def plan(ranks: int, algorithm: Algorithm) -> TrainingPlan:
    """Return a plan of data parallelism."""
    return TrainingPlan(Workload(mlp(4, 2), ranks), Mesh(ranks), PlanOptions(algorithm=algorithm))


@pytest.mark.parametrize("given_number, expected", [(None, 6), (2, 2), (3, 3)])
def test_threads_are_of_one_node_unless_told(given_number: int | None, expected: int) -> None:
    before = plan(6, Algorithm.HIERARCHICAL)
    found = run_threads(6, lambda wire: placed(before, given_number, wire))
    assert {each.options.ranks_per_node for each in found} == {expected}


def test_other_algorithms_are_not_asked_about_nodes() -> None:
    before = plan(6, Algorithm.RING)
    assert run_threads(6, lambda wire: placed(before, 4, wire)) == [before] * 6


def test_all_ranks_agree_that_nodes_are_uneven() -> None:
    before = plan(6, Algorithm.HIERARCHICAL)
    with pytest.raises(AgreedError, match=r"^ranks-per-node must put equally many ranks"):
        run_threads(6, lambda wire: placed(before, 4, wire))


@pytest.mark.parametrize(
    ("mesh", "options", "ranks_per_node", "expected"),
    [
        (Mesh(4), PlanOptions(), None, Algorithm.SHARED_WINDOW),
        (Mesh(4), PlanOptions(), 4, Algorithm.SHARED_WINDOW),
        (Mesh(2, 2), PlanOptions(), None, Algorithm.SHARED_WINDOW),
        (Mesh(4), PlanOptions(), 2, Algorithm.LIBRARY),
        (Mesh(pp=4), PlanOptions(), None, Algorithm.LIBRARY),
        (Mesh(4), PlanOptions(overlap=True), None, Algorithm.LIBRARY),
        (Mesh(4), PlanOptions(strategy=Strategy.AVERAGING), None, Algorithm.LIBRARY),
        (Mesh(4), PlanOptions(device=DeviceKind.EMULATED), None, Algorithm.LIBRARY),
    ],
)  # fmt: skip
def test_replicas_share_a_window_unless_told_or_where_they_cannot(
    mesh: Mesh, options: PlanOptions, ranks_per_node: int | None, expected: Algorithm
) -> None:
    before = TrainingPlan(Workload(mlp(4, 4, 4, 4, 2), 8), mesh, options)
    found = run_threads(4, lambda wire: placed(before, ranks_per_node, wire, chooses=True))
    assert {each.options.algorithm for each in found} == {expected}
