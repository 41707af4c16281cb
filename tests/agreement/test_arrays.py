"""Arrays against events: the same times for the same messages, to 1e-12, or a reason why not."""

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.errors import UsageError
from exec.network.network import mlp
from exec.noise import Distribution, Noise
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.segment import programs_of
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Shape,
    Wait,
)
from exec.program.peers import Part
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.arrays.irregular import IrregularError
from sim.arrays.simulate import simulate_arrays
from sim.costs import Costs
from sim.engine import Engine
from sim.engines import simulated
from sim.jitter import paces
from sim.simulate import simulate
from tests.agreement.hand_made import ALPHA_S, BETA_S_PER_BYTE, links, machine, machines
from tests.exec.random_plans import Case, all_cases, schemes

SAME = 1e-12
ROUND = machine()
NOISES = st.one_of(
    st.none(),
    st.builds(Noise, st.sampled_from([Distribution.LOGNORMAL, Distribution.EXPONENTIAL]), st.floats(0.01, 0.4)),
)  # fmt: skip


def assert_same(program: Program, costs: Costs, noise: Noise | None, *, one_lane: bool) -> bool:
    """Assert that arrays tell what events do, or refuse; say which."""
    drawn = None
    if noise is not None:
        turns = max(role.times for role in program.roles)
        drawn = paces(noise, 7, program.mesh.world_size, turns)
    try:
        arrays = simulate_arrays(program, costs, one_lane=one_lane, paces=drawn).first
    except IrregularError:
        return False
    events = simulate(
        expand(program), costs, one_lane=one_lane, paces=None if drawn is None else drawn[0]
    )
    assert arrays.step_time_s == pytest.approx(events.step_time_s, rel=SAME)
    assert arrays.compute_s == pytest.approx(events.compute_s, rel=SAME)
    return True


@st.composite
def held(draw: st.DrawFn) -> Machine:
    """Draw a Machine on which some messages, or all, wait for their receives."""
    on = draw(machines())
    limit = draw(st.sampled_from([None, None, 0.0, 100.0, 1e4]))
    return on.model_copy(update={"links": {
        tier: each.model_copy(update={"eager_limit_nbytes": limit}) for tier, each in on.links.items()
    }})  # fmt: skip


def slowness(draw: st.DrawFn, ranks: int) -> dict[int, float]:
    """Draw ranks that compute longer."""
    return draw(st.dictionaries(st.integers(0, ranks - 1), st.floats(1.0, 4.0), max_size=2))


@settings(max_examples=40)
@given(
    data=st.data(), case=all_cases(range(1, 13)), on=held(), noise=NOISES, one_lane=st.booleans()
)
def test_arrays_tell_what_events_do_of_any_plan(
    data: st.DataObject, case: Case, on: Machine, noise: Noise | None, one_lane: bool
) -> None:
    slow = slowness(data.draw, case.mesh.world_size)  # type: ignore[arg-type]
    costs = Costs(on, case.mesh, case.options.ranks_per_node, slowness=slow)
    is_told = assert_same(case.program, costs, noise, one_lane=one_lane)
    event(f"told: {is_told}")


@settings(max_examples=60)
@given(
    case=schemes(range(1, 9), [Strategy.AVERAGING, Strategy.SERVER, Strategy.MASTER_BROADCAST, Strategy.SHARED_WINDOWS, Strategy.HOGWILD, Strategy.MASTER_ROUND_TRIP]),
    on=held(), noise=NOISES, one_lane=st.booleans(), per_node=st.integers(1, 4),
)  # fmt: skip
def test_arrays_tell_what_events_do_of_any_scheme(
    case: Case, on: Machine, noise: Noise | None, one_lane: bool, per_node: int
) -> None:
    segments = plan_epoch(case.workload, case.mesh, case.options, 3 * case.workload.global_batch)
    for program in programs_of(segments):
        is_told = assert_same(program, Costs(on, case.mesh, per_node), noise, one_lane=one_lane)
        event(f"told: {is_told}")


@settings(max_examples=30)
@given(
    ranks=st.integers(1, 24), width=st.integers(1, 60), bucket=st.sampled_from([1, 1000, 1 << 20]),
    extra=st.integers(0, 30), overlap=st.booleans(), one_lane=st.booleans(), on=held(), noise=NOISES,
)  # fmt: skip
def test_a_ring_over_nodes_is_always_told(
    ranks: int, width: int, bucket: int, extra: int, overlap: bool, one_lane: bool, on: Machine,
    noise: Noise | None,
) -> None:  # fmt: skip
    options = PlanOptions(bucket_nbytes=bucket, overlap=overlap, algorithm=Algorithm.RING)
    program = plan_step(Workload(mlp(3, width, 5), ranks + extra, 8), Mesh(ranks), options)
    limits = {each.eager_limit_nbytes for each in on.links.values()}
    buckets = [op.part.size for op in program.roles[0].ops if isinstance(op, Collective)]
    has_empty_chunks = ranks > min(buckets, default=ranks)
    is_told = assert_same(program, Costs(on, Mesh(ranks), 1), noise, one_lane=one_lane)
    only_some_wait = limits & {100.0, 1e4} or (0.0 in limits and has_empty_chunks)
    assert is_told or only_some_wait


@pytest.mark.parametrize(
    ("mesh", "per_node"),
    [(Mesh(8), 2), (Mesh(12), 4), (Mesh(7), 3), (Mesh(1, 1, 6), 2), (Mesh(2, 1, 4), 8)],
)
def test_ranks_that_share_nodes_are_told(mesh: Mesh, per_node: int) -> None:
    options = PlanOptions(algorithm=Algorithm.RING)
    program = plan_step(Workload(mlp(24, 48, 24), 24, 8), mesh, options)
    assert assert_same(program, Costs(ROUND, mesh, per_node), None, one_lane=False)


def one_collective(mesh: Mesh, algorithm: Algorithm, size: int, node_size: int = 1) -> Program:
    """Return a program of one all-reduce by all replicas at once."""
    part = Part("grad", 0, size)
    op = Collective("sum", CollectiveKind.ALLREDUCE, part, Axis.DP, algorithm, node_size=node_size)
    spans = (range(mesh.size(axis)) for axis in Axis)
    return Program(mesh, 8, (Role("all", *spans, (op,)),))


@pytest.mark.parametrize("limit_nbytes", [None, 0.0])
@pytest.mark.parametrize(
    ("mesh", "per_node"), [(Mesh(3, 1, 2), 2), (Mesh(5, 2, 2), 4), (Mesh(4, 1, 4), 8)]
)
def test_groups_that_share_a_nodes_link_evenly_are_told(
    mesh: Mesh, per_node: int, limit_nbytes: float | None
) -> None:
    on = machine(links={tier: each.model_copy(update={"eager_limit_nbytes": limit_nbytes}) for tier, each in ROUND.links.items()})  # fmt: skip
    program = one_collective(mesh, Algorithm.RING, 1003)
    assert assert_same(program, Costs(on, mesh, per_node), None, one_lane=False)


@pytest.mark.parametrize("size", [2400, 2401])
@pytest.mark.parametrize(("ranks", "per_node"), [(8, 2), (12, 4), (8, 4), (24, 6)])
def test_a_ring_inside_nodes_and_one_between_them_are_told_if_even(
    ranks: int, per_node: int, size: int
) -> None:
    program = one_collective(Mesh(ranks), Algorithm.HIERARCHICAL, size, node_size=per_node)
    is_told = assert_same(program, Costs(ROUND, Mesh(ranks), per_node), None, one_lane=False)
    assert is_told == (size == 2400)


@pytest.mark.parametrize(
    "algorithm", [Algorithm.RECURSIVE_DOUBLING, Algorithm.HALVING_DOUBLING, Algorithm.BINOMIAL_TREE]
)
def test_powers_of_two_are_told_by_any_algorithm(algorithm: Algorithm) -> None:
    program = plan_step(
        Workload(mlp(16, 16, 16), 32, 8), Mesh(16), PlanOptions(algorithm=algorithm)
    )
    assert assert_same(program, Costs(ROUND, Mesh(16), 1), None, one_lane=False)


def test_messages_of_one_rank_to_another_go_one_after_the_other() -> None:
    # Transfers of 48 ms and compute of 4 ms or less: activations queue up behind each other.
    on = machine(links=links(ALPHA_S, 6 * BETA_S_PER_BYTE))
    program = plan_step(Workload(mlp(2, 100, 2), 60, 8), Mesh(pp=2), PlanOptions(6, Schedule.GPIPE))
    assert assert_same(program, Costs(on, Mesh(pp=2), 1), None, one_lane=False)


def test_every_replica_is_told_as_if_it_were_alone() -> None:
    mesh = Mesh(6)
    program = plan_step(Workload(mlp(7, 9, 5), 13, 8), mesh, PlanOptions(algorithm=Algorithm.RING))
    drawn = paces(Noise(Distribution.LOGNORMAL, 0.2), 3, 6, 1, replicas=5)
    found = simulate_arrays(program, Costs(ROUND, mesh, 1), one_lane=False, paces=drawn)
    for replica, step_s in enumerate(found.step_times_s):
        slow = dict(enumerate(drawn[replica, :, 0].tolist()))
        events = simulate(expand(program), Costs(ROUND, mesh, 1, slowness=slow), one_lane=False)
        assert step_s == pytest.approx(events.step_time_s, rel=SAME)
    assert len(np.unique(found.step_times_s)) == 5


def test_a_collective_of_the_library_begins_with_the_last_rank_of_each_replica() -> None:
    first = Compute(Kernel.LINEAR, 0, 0, Shape(1, 1, 1000), 0, 0)
    summed = Collective("sum", CollectiveKind.ALLREDUCE, Part("grad", 0, 100), Axis.DP)
    role = Role("all", range(3), range(1), range(1), (first, Wait(Lane.COMM, first.id), summed))
    drawn = np.array([[1.0, 2.0, 3.0], [5.0, 1.0, 1.0]])[:, :, None]
    found = simulate_arrays(
        Program(Mesh(3), 8, (role,)), Costs(ROUND, Mesh(3), 1), one_lane=True, paces=drawn
    )
    # A millisecond, and a microsecond a multiply-add: the slowest take 3 and 5 times 2 ms.
    assert np.diff(found.step_times_s) == pytest.approx([2 * 2e-3], rel=SAME)
    assert found.compute_times_s == pytest.approx([6e-3, 10e-3], rel=SAME)


def test_flows_that_meet_are_left_to_events_with_the_link_named() -> None:
    program = plan_step(
        Workload(mlp(6, 6, 6), 12, 8), Mesh(6), PlanOptions(algorithm=Algorithm.RECURSIVE_DOUBLING)
    )
    costs = Costs(ROUND, Mesh(6), 1)
    with pytest.raises(IrregularError, match=r"two flows meet on node\d\.(up|down)"):
        simulate_arrays(program, costs, one_lane=False)
    with pytest.raises(
        UsageError, match=r"engine arrays needs .* meet on node\d.*--engine simulate"
    ):
        simulated(program, costs, Engine.ARRAYS, one_lane=False)
    chosen = simulated(program, costs, Engine.SIMULATE, one_lane=False)
    assert chosen.step_time_s == simulate(expand(program), costs, one_lane=False).step_time_s
    assert chosen.simulated[0].startswith(
        "events: one for each rank like it, 3 of 6; two flows meet"
    )


def test_the_choice_says_which_engine_answered() -> None:
    program = plan_step(Workload(mlp(6, 6), 12, 8), Mesh(4), PlanOptions(algorithm=Algorithm.RING))
    costs = Costs(ROUND, Mesh(4), 1)
    by = {engine: simulated(program, costs, engine, one_lane=False) for engine in list(Engine)[1:]}
    assert by[Engine.SIMULATE].simulated == by[Engine.ARRAYS].simulated == ("arrays over 4 ranks",)
    assert by[Engine.EVENTS].simulated == ("events: asked for",)
    assert by[Engine.EVENTS].step_time_s == pytest.approx(by[Engine.ARRAYS].step_time_s, rel=SAME)
