"""Lumps against events of every rank: the same times to 1e-12, however messages meet."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.segment import programs_of
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Compute, Kernel, Lane, Receive, Send, Shape, Wait
from exec.program.peers import Part, Shift, Xor
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.arrays.irregular import IrregularError
from sim.costs import Costs
from sim.engines import Engine, simulated
from sim.lumps.simulate import simulate_lumps
from sim.simulate import simulate
from tests.agreement.hand_made import machine
from tests.agreement.test_arrays import SAME, held
from tests.exec.random_plans import Case, all_cases, schemes

ROUND = machine()
MESHES = [Mesh(2, 2), Mesh(3, 2, 2), Mesh(2, 3), Mesh(4, 2), Mesh(1, 2, 3), Mesh(2, 2, 2), Mesh(4, 2, 4)]  # fmt: skip


def assert_same(program: Program, costs: Costs, *, one_lane: bool) -> int:
    """Assert that lumps tell what single ranks do; return how many there were."""
    try:
        times, num_lumps = simulate_lumps(program, costs, one_lane=one_lane, most=1000)
    except IrregularError:
        return 0
    alone = simulate(expand(program), costs, one_lane=one_lane)
    assert times.step_time_s == pytest.approx(alone.step_time_s, rel=SAME)
    assert times.compute_s == pytest.approx(alone.compute_s, rel=SAME)
    return num_lumps


@settings(max_examples=50)
@given(
    mesh=st.sampled_from(MESHES), extra=st.sampled_from([0, 0, 1, 3]), microbatches=st.integers(1, 3),
    per_node=st.integers(1, 4), one_lane=st.booleans(), on=held(), overlap=st.booleans(),
    schedule=st.sampled_from(Schedule), width=st.sampled_from([8, 12, 48, 7]), bucket=st.sampled_from([200, 1 << 20]),
    algorithm=st.sampled_from([each for each in Algorithm if each not in (Algorithm.HIERARCHICAL, Algorithm.SHARED_WINDOW)]),
    slow=st.sampled_from([{}, {}, {1: 1.7}]),
)  # fmt: skip
def test_hybrids_whose_messages_meet_are_told_as_by_single_ranks(
    mesh: Mesh, extra: int, microbatches: int, per_node: int, one_lane: bool, on: Machine, overlap: bool,
    schedule: Schedule, width: int, bucket: int, algorithm: Algorithm, slow: dict[int, float],
) -> None:  # fmt: skip
    workload = Workload(mlp(*[width] * 6, 4), mesh.dp * microbatches + extra, 8)
    options = PlanOptions(microbatches, schedule, bucket, overlap, algorithm)
    program = plan_step(workload, mesh, options)
    assert assert_same(program, Costs(on, mesh, per_node, slowness=slow), one_lane=one_lane)


@settings(max_examples=25)
@given(data=st.data(), case=all_cases(range(1, 13)), on=held(), one_lane=st.booleans())
def test_any_plan_is_told_as_by_single_ranks(
    data: st.DataObject, case: Case, on: Machine, one_lane: bool
) -> None:
    slow = data.draw(st.dictionaries(st.integers(0, case.mesh.world_size - 1), st.floats(1.0, 4.0), max_size=2))  # fmt: skip
    costs = Costs(on, case.mesh, case.options.ranks_per_node, slowness=slow)
    assert assert_same(case.program, costs, one_lane=one_lane)


@settings(max_examples=20)
@given(
    case=schemes(range(1, 9), [Strategy.AVERAGING, Strategy.MASTER_BROADCAST, Strategy.SHARED_WINDOWS, Strategy.MASTER_ROUND_TRIP]),
    on=held(), one_lane=st.booleans(), per_node=st.integers(1, 4),
)  # fmt: skip
def test_any_scheme_is_told_as_by_single_ranks(
    case: Case, on: Machine, one_lane: bool, per_node: int
) -> None:
    for program in programs_of(plan_epoch(case.workload, case.mesh, case.options, 3 * case.workload.global_batch)):  # fmt: skip
        assert_same(program, Costs(on, case.mesh, per_node), one_lane=one_lane)


@pytest.mark.parametrize("per_node", [1, 2, 4, 8])
@pytest.mark.parametrize("algorithm", [Algorithm.RING, Algorithm.HALVING_DOUBLING, Algorithm.RECURSIVE_DOUBLING, Algorithm.HIERARCHICAL])  # fmt: skip
def test_an_even_hybrid_is_a_few_lumps(algorithm: Algorithm, per_node: int) -> None:
    mesh = Mesh(4, 2, 4)
    options = PlanOptions(2, algorithm=algorithm, ranks_per_node=per_node)
    program = plan_step(Workload(mlp(*[64] * 4, 64), 64, 8), mesh, options)
    num_lumps = assert_same(program, Costs(ROUND, mesh, per_node), one_lane=False)
    assert 0 < num_lumps <= mesh.pp * mesh.tp  # replicas are alike


def test_ranks_are_told_apart_once_they_differ() -> None:
    even, uneven = (
        plan_step(Workload(mlp(8, 8, 8), batch, 8), Mesh(4), PlanOptions(algorithm=Algorithm.RING))
        for batch in (8, 9)
    )
    costs = Costs(ROUND, Mesh(4), 1)
    assert assert_same(even, costs, one_lane=False) == 1
    assert assert_same(uneven, costs, one_lane=False) == 4
    with pytest.raises(IrregularError, match="more than 2 ranks differ"):
        simulate_lumps(uneven, costs, one_lane=False, most=2)


def test_a_message_waits_for_one_to_the_same_rank_and_shares_with_others() -> None:
    # Rank 0's neighbour is its partner too, rank 1's is not: so they differ once both are sent.
    large, small = Part("grad", 0, 10_000), Part("grad", 0, 1000)
    after = Compute(Kernel.LINEAR, 0, 0, Shape(1, 1, 1000), 0, 0)
    ops = (
        Send("large", large, Shift(Axis.DP, 1), 1), Send("small", small, Xor(Axis.DP, 1), 2),
        Receive("first", small, Xor(Axis.DP, 1), 2), Wait(Lane.COMPUTE, "first"), after,
        Receive("last", large, Shift(Axis.DP, -1), 1),
    )  # fmt: skip
    program = Program(Mesh(4), 8, (Role("all", range(4), range(1), range(1), ops),))
    assert assert_same(program, Costs(ROUND, Mesh(4), 1), one_lane=True) == 2


def test_4096_ranks_whose_messages_meet_are_simulated() -> None:
    mesh = Mesh(64, 4, 16)
    options = PlanOptions(2, algorithm=Algorithm.RECURSIVE_DOUBLING)
    program = plan_step(Workload(mlp(*[32] * 8, 32), 256, 8), mesh, options)
    times = simulated(program, Costs(ROUND, mesh, 1), Engine.SIMULATE, one_lane=True)
    assert times.simulated[0].startswith("events: one for each rank like it")
    one = Mesh(1, 4, 16)  # a replica alone takes less than with the sum over replicas
    alone = plan_step(Workload(mlp(*[32] * 8, 32), 4, 8), one, options)
    least = simulated(alone, Costs(ROUND, one, 1), Engine.SIMULATE, one_lane=True)
    assert times.step_time_s > least.step_time_s


def test_too_many_ranks_that_differ_are_refused_with_what_to_do() -> None:
    mesh = Mesh(600)  # no power of two, so messages meet
    options = PlanOptions(algorithm=Algorithm.RECURSIVE_DOUBLING)
    program = plan_step(Workload(mlp(4, 4, 4), 600, 8), mesh, options)
    slowness = {rank: 1.0 + rank / 1000 for rank in range(600)}
    with pytest.raises(UsageError, match=r"512 ranks that differ .* got 600.*--engine solve"):
        simulated(program, Costs(ROUND, mesh, 1, slowness=slowness), Engine.SIMULATE, one_lane=True)
    with pytest.raises(UsageError, match="--engine simulate"):
        simulated(program, Costs(ROUND, mesh, 1), Engine.EVENTS, one_lane=True)
