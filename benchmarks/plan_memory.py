"""The memory of pipelines, forecast and measured: ``python benchmarks/plan_memory.py``.

Networks of convolutions are trained for three steps on two ranks, as two stages, under both
schedules and with several numbers of microbatches, each in fresh processes. Told for each rank:
the bytes that the plan counts, which are those that ``sim.predict`` forecasts for the rank that
holds most, what the session has allocated, and how far the resident memory rose above what it was
once the libraries and the data set were there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from peak import peak_growth_nbytes
from records import check_writable, provenance, write_records
from rich.table import Table
from threadpoolctl import threadpool_limits

from exec.cli import console, make_app, run_app
from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.launch import find_mpiexec
from exec.network.parse import parse_net
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.workload import Workload, positive
from sim.forecast import memory_nbytes

CASES = (("cnn", 128), ("resnet18-small", 32))
MICROBATCHES = (1, 2, 4, 8)
STAGES, NUM_STEPS, LEARNING_RATE = 2, 3, 0.001

app = make_app("python benchmarks/plan_memory.py", "Compare forecast and measured memory.")


@app.default
def plan_memory(*, microbatches: tuple[int, ...] = MICROBATCHES, out: Path | None = None) -> None:
    """Compare the forecast and the measured memory of pipelines.

    Parameters
    ----------
    microbatches
        Into how many parts a batch is cut.
    out
        Write the records here, as JSON lines.
    """
    for count in microbatches:
        positive("microbatches", count)
    check_writable(out)
    head = provenance("mpi4py", "mpich") | {"steps": NUM_STEPS}
    records = [
        _case(net, batch, schedule, count)
        for net, batch in CASES
        for schedule in Schedule
        for count in microbatches
    ]
    if out is not None:
        write_records(out, [head, *records])
    _print(records)


@app.command
def one(net: str, batch: int, schedule: Schedule, microbatches: int) -> None:
    """Measure one plan on the ranks that mpiexec started, and print JSON.

    Parameters
    ----------
    net
        The network.
    batch
        The batch.
    schedule
        The pipeline's.
    microbatches
        Into how many parts the batch is cut.
    """
    workload, mesh = Workload(parse_net(net), batch), Mesh(pp=STAGES)
    options = PlanOptions(microbatches, schedule, strategy=Strategy.PIPELINE)
    network = workload.network
    dataset = noise_dataset(network.image, network.num_classes, NUM_STEPS * batch, 1, seed=0)
    plan = TrainingPlan(workload, mesh, options, learning_rate=LEARNING_RATE)

    def body(wire: Transport) -> None:
        allocated: list[int] = []

        def train() -> None:
            session = Session(plan, dataset, wire)
            for indices in session.batches(0):
                session.do_step(indices)
            allocated.append(session.buffers.nbytes)

        growth = peak_growth_nbytes(train)
        ranks = wire.gather_objects({"allocated_bytes": allocated[0], "growth_bytes": growth})
        if wire.rank == 0:
            print(json.dumps(ranks))

    with threadpool_limits(1):
        run_job(TransportName.MPI, None, body)


def _case(net: str, batch: int, schedule: Schedule, microbatches: int) -> dict[str, Any]:
    command = [find_mpiexec() or "mpiexec", "-n", str(STAGES), sys.executable, __file__, "one",
               net, str(batch), schedule, str(microbatches)]  # fmt: skip
    limited = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=limited)
    if done.returncode:
        raise UsageError(f"{net} must train on {STAGES} ranks, got {done.stderr.strip()}")
    options = PlanOptions(microbatches, schedule, strategy=Strategy.PIPELINE)
    program = plan_epoch(Workload(parse_net(net), batch), Mesh(pp=STAGES), options, batch)[0].program  # fmt: skip
    ranks = [
        {"planned_bytes": program.role_of(rank).nbytes} | own
        for rank, own in enumerate(json.loads(done.stdout))
    ]
    return {
        "kind": "plan memory",
        "net": net,
        "batch": batch,
        "schedule": str(schedule),
        "microbatches": microbatches,
        "forecast_bytes": memory_nbytes(program, options),
        "ranks": ranks,
    }


def _print(records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("net", "batch", "schedule", "microbatches", "forecast MiB", "rank", "planned MiB", "allocated MiB", "measured MiB", "measured / planned"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("net", "schedule") else "right")
    for each in records:
        for rank, own in enumerate(each["ranks"]):
            planned, allocated, grown = (own[f"{key}_bytes"] / 2**20 for key in ("planned", "allocated", "growth"))  # fmt: skip
            named = (each["net"], str(each["batch"]), each["schedule"], str(each["microbatches"]), f"{each['forecast_bytes'] / 2**20:.2f}")  # fmt: skip
            table.add_row(
                *(named if rank == 0 else [""] * len(named)), str(rank), f"{planned:.2f}", f"{allocated:.2f}",
                f"{grown:.2f}", f"{grown / planned:.2f}",
            )  # fmt: skip
    console(120).print(table)


if __name__ == "__main__":
    run_app(app)
