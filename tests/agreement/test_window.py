"""Shared windows: simulated as solved, as on paper, and flagged where a Machine knows nothing of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine, Tier
from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Compute
from exec.program.program import Program
from exec.workload import Workload
from sim.arrays.irregular import IrregularError
from sim.arrays.simulate import simulate_arrays
from sim.costs import Costs
from sim.engines import simulated
from sim.forecast import Engine, forecast
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import curve, links, machine, machines

WINDOW = PlanOptions(strategy=Strategy.DATA, algorithm=Algorithm.SHARED_WINDOW)
ALPHA_S, BETA_S_PER_BYTE, BARRIER_S = 3e-4, 2e-7, 5e-4


def with_windows(before: Machine, alpha_s: float, beta: float, barrier_s: float) -> Machine:
    """Return the Machine with costs of windows and barriers."""
    window = curve((1e18, alpha_s, beta))
    node = before.links[Tier.NODE].model_copy(update={"window": window, "barrier_s": barrier_s})
    return before.model_copy(update={"links": {**before.links, Tier.NODE: node}})


@given(
    on=machines(), ranks=st.sampled_from([2, 3, 4, 8]), one_lane=st.booleans(), momentum=st.booleans(),
    costs=st.tuples(*[st.floats(0.0, 1e-3)] * 3), is_measured=st.booleans(),
)  # fmt: skip
def test_a_window_is_simulated_as_it_is_solved(
    on: Machine, ranks: int, one_lane: bool, momentum: bool, costs: tuple[float, float, float], is_measured: bool
) -> None:  # fmt: skip
    found = with_windows(on, *costs) if is_measured else on
    workload = Workload(
        mlp(23, 24, 24), 24, 8, momentum
    )  # 24 x 24 + 24 x 25 parameters: equal slices
    mesh = Mesh(ranks)
    program = plan_step(workload, mesh, WINDOW)
    on_node = Costs(found, mesh, ranks)
    solved = solve(program, on_node, one_lane=one_lane)
    simulated = simulate(expand(program), on_node, one_lane=one_lane)
    assert simulated.step_time_s == pytest.approx(solved.step_time_s, rel=1e-9)
    assert simulated.compute_s == pytest.approx(solved.compute_s, rel=1e-9)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_step_takes_two_barriers_and_a_sum_of_every_other_window(ranks: int) -> None:
    found = with_windows(machine(links=links()), ALPHA_S, BETA_S_PER_BYTE, BARRIER_S)
    mesh = Mesh(ranks)
    program = plan_step(Workload(mlp(23, 24, 24), 24, 8), mesh, WINDOW)
    costs = Costs(found, mesh, ranks)
    role = program.roles[0]
    alone_s = sum(costs.compute_s(op, role.nbytes) for op in role.ops if isinstance(op, Compute))
    size = program.roles[0].holds[0].size
    assert size % ranks == 0
    expected_s = alone_s + 2 * math.ceil(math.log2(ranks)) * BARRIER_S
    expected_s += (ranks - 1) * (ALPHA_S + BETA_S_PER_BYTE * 8 * (size // ranks))
    assert solve(program, costs, one_lane=True).step_time_s == pytest.approx(expected_s, rel=1e-12)
    assert any("shared windows" in what for what in costs.extrapolated) == (ranks > 2)


@pytest.mark.parametrize("nodes, node_size", [(2, 2), (3, 2), (2, 3), (2, 4)])
def test_windows_on_several_nodes_take_their_sums_and_a_ring_of_slices(
    nodes: int, node_size: int
) -> None:
    found = with_windows(machine(links=links()), ALPHA_S, BETA_S_PER_BYTE, BARRIER_S)
    mesh = Mesh(nodes * node_size)
    program = plan_step(Workload(mlp(23, 24, 24), 24, 8), mesh, windows_of(node_size))
    costs = Costs(found, mesh, node_size)
    role = program.roles[0]
    size = role.holds[0].size
    assert size % mesh.dp == 0
    expected_s = sum(costs.compute_s(op, role.nbytes) for op in role.ops if isinstance(op, Compute))
    expected_s += 2 * math.ceil(math.log2(node_size)) * BARRIER_S
    expected_s += (node_size - 1) * (ALPHA_S + BETA_S_PER_BYTE * 8 * (size // node_size))
    # All ranks of a node send through its link at once, each to its like on the next.
    part = size // mesh.dp
    message_s = sum(costs.message(8 * part, Tier.NETWORK, node_size))
    expected_s += (nodes - 1) * (2 * message_s + costs.accumulate_s(part, role.nbytes))
    for engine in (Engine.SOLVE, Engine.ARRAYS, Engine.EVENTS):
        times = read(program, costs, engine)
        assert times == pytest.approx(expected_s, rel=1e-9), engine


@settings(max_examples=40)
@given(
    on=machines(), nodes=st.integers(1, 3), node_size=st.integers(1, 4), rest=st.integers(0, 5),
    costs=st.tuples(*[st.floats(0.0, 1e-3)] * 3),
)  # fmt: skip
def test_windows_of_uneven_replicas_are_read_alike_by_arrays_and_events(
    on: Machine, nodes: int, node_size: int, rest: int, costs: tuple[float, float, float]
) -> None:
    mesh = Mesh(nodes * node_size)
    program = plan_step(Workload(mlp(23, 24, 24), mesh.dp + rest, 8), mesh, windows_of(node_size))
    on_nodes = Costs(with_windows(on, *costs), mesh, node_size)
    try:
        told = simulate_arrays(program, on_nodes, one_lane=False).first.step_time_s
    except IrregularError:  # ranks that share a link do not send as much at once, so events tell
        assert nodes > 1
        assert rest or program.roles[0].holds[0].size % mesh.dp
        return
    assert told == pytest.approx(read(program, on_nodes, Engine.EVENTS), rel=1e-12)


def test_a_window_of_all_ranks_is_that_of_one_node() -> None:
    workload = Workload(mlp(23, 24, 24), 24, 8)
    assert plan_step(workload, Mesh(4), windows_of(4)) == plan_step(workload, Mesh(4), WINDOW)


def windows_of(node_size: int) -> PlanOptions:
    """Return the options of windows on each of several nodes."""
    return replace(WINDOW, algorithm=Algorithm.HIERARCHICAL, ranks_per_node=node_size)


def read(program: Program, costs: Costs, engine: Engine) -> float:
    """Return the step's time as ``engine`` tells it."""
    if engine is Engine.SOLVE:
        return solve(program, costs, one_lane=False).step_time_s
    return simulated(program, costs, engine, one_lane=False).step_time_s


def test_a_machine_without_windows_answers_and_says_so() -> None:
    workload = Workload(mlp(23, 24, 24), 24, 8)
    answers = [
        forecast(machine(), workload, Mesh(2), WINDOW, ranks_per_node=2, engine=engine)
        for engine in Engine
    ]
    for answer in answers:
        assert "shared windows: not measured, taken as a rank's own memory" in answer.extrapolated
    assert answers[0].step_time_s == pytest.approx(answers[1].step_time_s, rel=1e-9)


def test_replicas_on_several_nodes_share_no_window() -> None:
    with pytest.raises(
        UsageError, match=r"^algorithm shared_window needs all 4 replicas on one node"
    ):
        forecast(machine(), Workload(mlp(6, 4), 8, 8), Mesh(4), WINDOW, ranks_per_node=2)
