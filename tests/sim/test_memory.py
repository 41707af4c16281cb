"""Laws of the memory's breakdown: its parts are the whole, and each is what its name says."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.network import Network
from exec.network.parse import parse_net
from exec.plan.epoch import check_plan, plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.memory import memory_by_schedule, memory_nbytes, memory_of
from tests.exec.random_networks import small_networks

SETTINGS = settings(derandomize=True, deadline=None, max_examples=20)


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("algorithm", [Algorithm.LIBRARY, Algorithm.RING])
def test_the_parts_are_what_the_fullest_rank_allocates(strategy: Strategy, algorithm: Algorithm) -> None:  # fmt: skip
    workload = Workload(parse_net("svhn-cnn"), 24, 8, has_momentum=True)
    ranks = {Strategy.SERIAL: 1, Strategy.HYBRID: 8}.get(strategy, 3)
    mesh = Mesh(2, 2, 2) if strategy is Strategy.HYBRID else mesh_of(strategy, ranks)
    options = PlanOptions(2 if mesh.pp > 1 else 1, strategy=strategy, algorithm=algorithm)
    check_plan(workload, mesh, options)
    program = plan_epoch(workload, mesh, options, 24)[0].program
    found = memory_of(program, workload, options)
    assert found.total_bytes == memory_nbytes(program, options)
    assert min(found.parameters_bytes, found.activations_bytes, found.scratch_bytes) > 0
    assert found.collective_bytes >= 0


def test_one_rank_s_parts_are_those_of_the_network() -> None:
    network = parse_net("cnn")
    workload = Workload(network, 10, 4, has_momentum=True)
    found = memory_of(plan_step(workload, Mesh()), workload, PlanOptions())
    size = 4 * network.num_parameters
    assert (found.parameters_bytes, found.gradients_bytes, found.velocity_bytes) == (size,) * 3
    # By hand: images, conv1 28x28x16 and its pool, conv2 14x14x32 and its pool, logits and targets;
    # what is done in place needs nothing.
    numbers = 784 + 12544 + 3136 + 6272 + 1568 + 10 + 10
    assert found.activations_bytes == 4 * 10 * numbers
    assert found.collective_bytes == 0
    plain = replace(workload, has_momentum=False)
    assert memory_of(plan_step(plain, Mesh()), plain, PlanOptions()).velocity_bytes == 0


@SETTINGS
@given(network=small_networks(), count=st.sampled_from([1, 2, 4]), schedule=st.sampled_from(Schedule))  # fmt: skip
def test_each_schedule_s_memory_is_that_of_a_plan_under_it(
    network: Network, count: int, schedule: Schedule
) -> None:
    mesh = Mesh(pp=min(2, len(network.stage_starts)))
    workload = Workload(network, 8, 8)
    options = PlanOptions(count, schedule)
    found = memory_by_schedule(plan_step(workload, mesh, options), workload, options)
    for other in Schedule:
        changed = replace(options, schedule=other)
        assert found[other] == memory_nbytes(plan_step(workload, mesh, changed), changed)
    assert found[Schedule.ONE_F_ONE_B] <= found[Schedule.GPIPE]
