"""A checkpoint is a program like any other: legal, readable, and timed alike by both engines."""

import pytest

from exec.network.network import Network, mlp
from exec.plan.checkpoint import plan_checkpoint
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.layout import layout_of
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy, mesh_of
from exec.program.check import check_program
from exec.program.mesh import Mesh
from exec.program.ops import Save
from exec.program.parse import parse_program
from exec.program.program import Program
from exec.program.text import format_program
from exec.workload import Workload
from sim.costs import Costs
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import ALPHA_S, machine, storage
from tests.agreement.readers import SAME
from tests.exec.random_plans import small_residual

WITH_STORAGE = machine(storage=storage())
CASES = [
    (strategy, mesh, has_momentum)
    for strategy in Strategy
    for mesh in ([Mesh(2, 2, 2), Mesh(3, 2, 1)] if strategy is Strategy.HYBRID else
                 [mesh_of(strategy, 1 if strategy is Strategy.SERIAL else 3)])
    for has_momentum in (False, True)
]  # fmt: skip


def network_of(strategy: Strategy) -> Network:
    """Return a network that ``strategy`` can train."""
    return small_residual() if strategy is Strategy.KRIZHEVSKY else mlp(6, 5, 4, 3)


def checkpoint_of(strategy: Strategy, mesh: Mesh, *, has_momentum: bool) -> Program:
    """Return the checkpoint after the last turn of an epoch."""
    workload = Workload(network_of(strategy), 12, 8, has_momentum)
    options = PlanOptions(strategy=strategy, average_every=2)
    last = plan_epoch(workload, mesh, options, 30)[-1]
    return plan_checkpoint(last.program, strategy)


@pytest.mark.parametrize("strategy, mesh, has_momentum", CASES)
def test_a_checkpoint_is_legal_reads_back_and_takes_the_same_time_in_both_engines(
    strategy: Strategy, mesh: Mesh, has_momentum: bool
) -> None:
    program = checkpoint_of(strategy, mesh, has_momentum=has_momentum)
    check_program(program)
    assert parse_program(format_program(program)) == program
    for ranks_per_node in (1, 2, mesh.world_size):
        costs = Costs(WITH_STORAGE, mesh, ranks_per_node)
        solved = solve(program, costs, one_lane=False).step_time_s
        simulated = simulate(expand(program), costs, one_lane=False).step_time_s
        assert simulated == pytest.approx(solved, rel=SAME)
        assert solved >= storage().fixed_s


@pytest.mark.parametrize("strategy, mesh, has_momentum", CASES)
def test_what_the_ranks_save_is_the_whole_network(
    strategy: Strategy, mesh: Mesh, has_momentum: bool
) -> None:
    program = checkpoint_of(strategy, mesh, has_momentum=has_momentum)
    saved: dict[tuple[int, int], set[int]] = {}
    for rank in range(mesh.world_size):
        _, stage, tp_rank = mesh.coordinates(rank)
        for op in program.ops(rank):
            if isinstance(op, Save):
                saved.setdefault((stage, tp_rank), set()).update(range(op.part.start, op.part.stop))
    for stage in range(mesh.pp):
        for tp_rank in range(mesh.tp):
            options = PlanOptions(strategy=strategy)
            layout = layout_of(network_of(strategy), mesh, stage, tp_rank, options)
            size = layout.num_parameters
            assert saved[stage, tp_rank] == set(range(size))


def test_ranks_of_a_node_share_its_disk() -> None:
    program = checkpoint_of(Strategy.AVERAGING, Mesh(4), has_momentum=False)
    nbytes = 8 * Workload(mlp(6, 5, 4, 3), 4).num_parameters
    for ranks_per_node, savers in ((1, 1), (2, 2), (4, 4)):
        costs = Costs(machine(storage=storage(), links={}), Mesh(4), ranks_per_node, is_comm_free=True)  # fmt: skip
        expected = storage().fixed_s + savers * nbytes * storage().s_per_byte
        assert solve(program, costs, one_lane=False).step_time_s == pytest.approx(
            expected, rel=SAME
        )


def test_of_equal_replicas_one_saves_and_all_meet() -> None:
    program = checkpoint_of(Strategy.DATA, Mesh(3), has_momentum=True)
    nbytes = 2 * 8 * Workload(mlp(6, 5, 4, 3), 3).num_parameters
    costs = Costs(WITH_STORAGE, Mesh(3), 1)
    expected = storage().fixed_s + nbytes * storage().s_per_byte
    times = solve(program, costs, one_lane=False)
    # The barrier of three ranks takes two latencies.
    assert times.step_time_s == pytest.approx(expected + 2 * ALPHA_S, rel=SAME)
    assert times.compute_s == 0.0
