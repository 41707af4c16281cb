"""The executor does each rank's ops in the order that the simulator forecasts. Order only, no times."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from exec.data.noise import noise_dataset
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Compute, Lane
from exec.program.timeline import Span
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload
from sim.costs import Costs
from sim.simulate import simulate
from tests.agreement.readers import ROUND

WIDTHS = (12, 10, 8, 6)
Names = dict[tuple[int, Lane], list[str]]

CASES = [
    (Mesh(), PlanOptions()),
    (Mesh(3), PlanOptions(overlap=True, bucket_nbytes=1)),
    (Mesh(4), PlanOptions(algorithm=Algorithm.RING, bucket_nbytes=1, overlap=True)),
    (Mesh(5), PlanOptions(algorithm=Algorithm.RECURSIVE_DOUBLING)),
    (Mesh(6), PlanOptions(algorithm=Algorithm.BINOMIAL_TREE)),
    (Mesh(6), PlanOptions(algorithm=Algorithm.HIERARCHICAL, ranks_per_node=2)),
    (Mesh(pp=3), PlanOptions(4, Schedule.GPIPE)),
    (Mesh(pp=3), PlanOptions(4, Schedule.ONE_F_ONE_B)),
    (Mesh(tp=2), PlanOptions()),
    (Mesh(2, 2, 2), PlanOptions(2, Schedule.ONE_F_ONE_B, 1, True, Algorithm.HALVING_DOUBLING)),
    (Mesh(3), PlanOptions(strategy=Strategy.AVERAGING, algorithm=Algorithm.RING)),
    (Mesh(2, 2), PlanOptions(strategy=Strategy.AVERAGING)),
    (Mesh(4), PlanOptions(strategy=Strategy.MASTER_ROUND_TRIP)),
    (Mesh(4), PlanOptions(strategy=Strategy.MASTER_BROADCAST)),
    (Mesh(5), PlanOptions(strategy=Strategy.SERVER, servers=2)),
    (Mesh(3), PlanOptions(strategy=Strategy.SHARED_WINDOWS)),
    (Mesh(3), PlanOptions(strategy=Strategy.SHARED_LOCK)),
]


def by_lane(spans: Iterable[Span], kept: Sequence[str]) -> Names:
    """Return the names that start with one of ``kept``, in order, of every rank's every lane."""
    found: Names = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_s):
        if span.name.startswith(tuple(kept)):
            found[span.rank, span.lane].append(span.name)
    return found


def executed(workload: Workload, mesh: Mesh, options: PlanOptions) -> list[Span]:
    dataset = noise_dataset(WIDTHS[0], WIDTHS[-1], workload.global_batch, 1, seed=0)

    def body(wire: Transport) -> list[Span]:
        session = Session(TrainingPlan(workload, mesh, options, "float64"), dataset, wire)
        session.do_step(np.arange(workload.global_batch), is_timed=True)
        return session.spans

    return [span for spans in run_threads(mesh.world_size, body) for span in spans]


@pytest.mark.parametrize(
    "mesh, options", CASES, ids=lambda value: str(value) if isinstance(value, Mesh) else ""
)
def test_every_rank_runs_its_ops_in_the_simulated_order(mesh: Mesh, options: PlanOptions) -> None:
    workload = Workload(mlp(*WIDTHS), 24, 8)
    program = expand(plan_epoch(workload, mesh, options, workload.global_batch)[0].program)
    spans = simulate(program, Costs(ROUND, mesh, 1), one_lane=False, keeps_spans=True).spans
    ids = {op.id for role in program.roles for op in role.ops if isinstance(op, Compute)}
    ran, forecast = (
        {key: [name for name in names if name in ids] for key, names in by_lane(each, [""]).items()}
        for each in (executed(workload, mesh, options), spans)
    )
    for rank in range(mesh.world_size):
        assert ran.get((rank, Lane.COMPUTE), []) == forecast.get((rank, Lane.COMPUTE), [])
        assert ran.get((rank, Lane.COMPUTE)) or program.role_of(rank).name == "master"


@pytest.mark.parametrize(
    "mesh, options", CASES[1:-1], ids=lambda value: str(value) if isinstance(value, Mesh) else ""
)
def test_what_the_simulator_draws_on_the_communication_lane_is_run_in_that_order(
    mesh: Mesh, options: PlanOptions
) -> None:
    # A simulated message that is there already, or that is nobody's to wait for, takes no time and
    # has no span; so the simulated lane is a part of the executed one, in its order.
    workload = Workload(mlp(*WIDTHS), 24, 8)
    program = expand(plan_epoch(workload, mesh, options, workload.global_batch)[0].program)
    spans = simulate(program, Costs(ROUND, mesh, 1), one_lane=False, keeps_spans=True).spans
    names = (
        "recv",
        "accumulate",
        "scale",
        "bucket",
        "allreduce",
        "allgather",
        "average",
        "model",
        "state",
    )
    ran, forecast = by_lane(executed(workload, mesh, options), names), by_lane(spans, names)
    assert any(forecast[rank, Lane.COMM] for rank in range(mesh.world_size))
    for rank in range(mesh.world_size):
        rest = iter(ran[rank, Lane.COMM])
        assert all(name in rest for name in forecast[rank, Lane.COMM])
