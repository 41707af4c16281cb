"""Variants of a Machine, solved in one walk: each as if it were solved alone."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.network.network import mlp
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.costs import Costs
from sim.intervals import uncertain_of
from sim.solve import solve, solve_each
from tests.agreement.hand_made import machines
from tests.agreement.readers import SAME

SETTINGS = settings(derandomize=True, deadline=None, max_examples=15)
MESHES = (Mesh(), Mesh(4), Mesh(3), Mesh(1, 3), Mesh(2, 2, 2), Mesh(1, 1, 4), Mesh(2, 3))
STRATEGIES = (Strategy.AVERAGING, Strategy.MASTER_ROUND_TRIP, Strategy.SERVER)


@SETTINGS
@given(
    on=machines(), mesh=st.sampled_from(MESHES), count=st.integers(1, 4), one_lane=st.booleans(),
    schedule=st.sampled_from(Schedule), overlap=st.booleans(), rpn=st.sampled_from([1, 2]),
    algorithm=st.sampled_from([Algorithm.LIBRARY, Algorithm.RING, Algorithm.HALVING_DOUBLING]),
    zs=st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=2), limit=st.sampled_from([None, 1.0, 1e4]),
)  # fmt: skip
def test_a_step_is_solved_for_all_variants_as_for_each(
    on: Machine, mesh: Mesh, count: int, one_lane: bool, schedule: Schedule, overlap: bool, rpn: int,
    algorithm: Algorithm, zs: list[float], limit: float | None,
) -> None:  # fmt: skip
    if mesh.pp > 1 and mesh.tp > 1:  # messages that wait for their receives deadlock there
        limit = None
    links = {
        tier: link.model_copy(update={"eager_limit_nbytes": limit})
        for tier, link in on.links.items()
    }
    on = on.model_copy(update={"links": links})
    options = PlanOptions(count, schedule, 1, overlap, algorithm)
    assert_solved_as_each(on, Workload(mlp(16, 24, 12, 8), 24, 8), mesh, options, rpn, zs, one_lane)


@SETTINGS
@given(
    on=machines(), strategy=st.sampled_from(STRATEGIES), ranks=st.integers(2, 6), one_lane=st.booleans(),
    z=st.floats(-2.0, 2.0),
)  # fmt: skip
def test_rounds_and_servers_are_solved_for_all_variants_as_for_each(
    on: Machine, strategy: Strategy, ranks: int, one_lane: bool, z: float
) -> None:
    options = PlanOptions(strategy=strategy, average_every=2)
    assert_solved_as_each(
        on, Workload(mlp(16, 12, 8), 12, 8), Mesh(ranks), options, 1, [z], one_lane
    )


def assert_solved_as_each(
    on: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int, zs: list[float],
    one_lane: bool,
) -> None:  # fmt: skip
    costs = Costs(on, mesh, ranks_per_node, slowness={mesh.world_size - 1: 1.5})
    for segment in plan_epoch(workload, mesh, options, 2 * workload.global_batch):
        uncertain = uncertain_of(costs, [segment.program])
        parameters = (uncertain.shared, *uncertain.own, *uncertain.others)
        variants = [costs, *(each.change(costs, z) for each in parameters for z in zs)]
        found = solve_each(segment.program, variants, one_lane=one_lane)
        for each, times in zip(variants, found, strict=True):
            alone = solve(segment.program, replace(each, extrapolated=set()), one_lane=one_lane)
            assert times.step_time_s == pytest.approx(alone.step_time_s, rel=SAME)
            assert times.compute_s == pytest.approx(alone.compute_s, rel=SAME)
