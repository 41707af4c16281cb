"""Data parallelism on one node against PyTorch's: ``python benchmarks/two_ranks.py``.

``python benchmarks/trainer.py`` runs it after its own.

Two processes of this computer, each on a core of its own where it can be bound and with one BLAS
thread, each with a batch of its own, float32. They take turns in every round with

- Stepcast: ``Session.do_step`` of strategy data, algorithm shared_window.
- PyTorch: ``DistributedDataParallel`` over gloo, which is what it has for CPUs; plain and fused SGD, and
  the faster is the yardstick.
- apart: the same network trained by each process on its own, both at once, with no message between
  them. What they reach together is all that these cores can give two ranks.
- products: the matrix products of the step alone, by both at once.

A rate is that of all ranks, by the slower one's time. Ratios are taken inside a round, and shown as
median (least..most). First Stepcast and PyTorch must have moved the weights alike, to 1e-3.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from mpi_runs import binding_of, launcher
from products import products, products_turn
from pytorch import Indices, torch_network, torch_step, torch_turn
from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import interleave, ratio, spread
from stepcast import stepcast_turn
from threadpoolctl import threadpool_limits
from torch.nn.parallel import DistributedDataParallel

from exec.cli import console, make_app, run_app
from exec.data.noise import noise_dataset
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload, positive

CASES = (
    ("128-50-26", 32),
    ("128-50-26", 256),
    ("784-512-512-26", 256),
    ("784-2048-2048-2048-26", 256),
)
TWO_RANK_NETS = tuple(dict.fromkeys(net for net, _ in CASES))
RANKS, RATE, NUM_CHECKED, MOVE_TOLERANCE = 2, 0.1, 3, 1e-3
NUM_SAMPLES = 10_240
BLOCK_FLOPS, MIN_STEPS, MAX_STEPS = 1e10, 3, 200  # a contender's turn: some tenths of a second

app = make_app("python benchmarks/two_ranks.py", "Compare two ranks with PyTorch's.")


@app.default
def two_ranks(*, rounds: int = 11, nets: tuple[str, ...] = (), out: Path | None = None) -> None:
    """Compare two ranks with PyTorch's.

    Parameters
    ----------
    rounds
        How often each contender takes its turn.
    nets
        Only these of the networks.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(out)
    head = provenance("torch", "mpi4py", "mpich", "threadpoolctl")
    records = two_rank_records(rounds, nets)
    if out is not None:
        write_records(out, [head, *records])
    screen = console(150)
    screen.print(f"{head['cpu']}, {head['blas']}, torch {head['torch']}, mpich {head['mpich']}, load average {head['load_average']}")  # fmt: skip
    screen.print(two_ranks_table(records), crop=False)


def two_rank_records(rounds: int, nets: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Measure each network, or those of ``nets``, on ranks of their own."""
    records = []
    for net, batch in CASES:
        if nets and net not in nets:
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [
                launcher(), *binding_of(RANKS), "-n", str(RANKS), sys.executable, __file__, "measure",
                net, str(batch), str(rounds), str(Path(folder) / "gloo"),
            ]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        records.append(json.loads(done.stdout))
    return records


@app.command(show=False)
def measure(net: str, batch: int, rounds: int, store: Path) -> None:
    """Measure on this rank; rank 0 prints the record."""

    def body(wire: Transport) -> None:
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=wire.rank, world_size=wire.size
        )
        with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
            record = _case(wire, net, batch, rounds)
        if wire.rank == 0:
            print(json.dumps(record))
        torch.distributed.destroy_process_group()

    run_job(TransportName.MPI, None, body)


def _case(wire: Transport, net: str, batch: int, rounds: int) -> dict[str, object]:
    """Measure one network, ``batch`` samples on each rank."""
    network, ranks = parse_net(net), wire.size
    dataset = noise_dataset(network.image, network.num_classes, NUM_SAMPLES, 1, seed=0)
    options = PlanOptions(strategy=Strategy.DATA, algorithm=Algorithm.SHARED_WINDOW)
    plan = TrainingPlan(Workload(network, batch * ranks), Mesh(ranks), options, learning_rate=RATE)
    session = Session(plan, dataset, wire)
    single = TrainingPlan(Workload(network, batch), Mesh(), learning_rate=RATE)
    apart = run_threads(1, partial(Session, single, dataset))[0]
    start = session.weights().parameters.copy()
    images = torch.from_numpy(dataset.train_images)
    replicas = [DistributedDataParallel(torch_network(session.weights())) for _ in range(2)]
    steps = {
        "pytorch" + " fused" * fused: torch_step(replica, images, dataset, RATE, is_fused=fused)
        for fused, replica in enumerate(replicas)
    }
    batches = (indices for epoch in count() for indices in session.batches(epoch) if len(indices) == batch * ranks)  # fmt: skip

    def own(indices: list[Indices]) -> list[Indices]:
        return [each[wire.rank * batch :][:batch] for each in indices]

    checked = list(islice(batches, NUM_CHECKED))
    for indices, mine in zip(checked, own(checked), strict=True):
        session.do_step(indices)
        for step in steps.values():
            step(torch.from_numpy(mine))
    ours = torch.cat([p.reshape(-1) for p in torch_network(session.weights()).parameters()])
    theirs = torch.cat([p.detach().reshape(-1) for p in replicas[0].parameters()])
    moved = float(np.linalg.norm(session.weights().parameters - start))
    difference = float((ours - theirs).norm().detach()) / moved
    if not difference <= MOVE_TOLERANCE:
        raise RuntimeError(f"{net}, batch {batch}: Stepcast and PyTorch differ by {difference}")
    flops = batch * sum(single.workload.node_flops(node) for node in range(len(network.nodes)))
    num_steps = round(max(MIN_STEPS, min(MAX_STEPS, BLOCK_FLOPS / flops)))

    def together(turn: Callable[[list[Indices]], float], indices: list[Indices]) -> float:
        wire.gather_objects(None)
        return max(wire.gather_objects(turn(indices)))

    def alone(turn: Callable[[list[Indices]], float]) -> Callable[[list[Indices]], float]:
        return lambda indices: turn(own(indices))

    contenders = {"stepcast": partial(together, partial(stepcast_turn, session))}
    contenders |= {name: partial(together, alone(partial(torch_turn, step))) for name, step in steps.items()}  # fmt: skip
    contenders["apart"] = partial(together, alone(partial(stepcast_turn, apart)))
    calls = products(apart.buffers, batch)
    contenders["products"] = partial(together, partial(products_turn, calls))
    inputs = (list(islice(batches, num_steps + 1)) for _ in range(rounds))
    times_s = interleave(contenders, inputs)
    yardstick = min(steps, key=lambda name: spread(times_s[name]).median)
    total = num_steps * batch * ranks
    return {
        "kind": "two_ranks", "net": net, "batch_per_rank": batch, "ranks": ranks, "rounds": rounds,
        "steps_per_round": num_steps, "move_rel_difference": difference, "yardstick": yardstick,
        "bound": os.sched_getaffinity(0) != set(range(os.cpu_count() or 1)),
        "samples_per_s": {name: total / spread(each).median for name, each in times_s.items()},
        "speed_over_ddp": asdict(ratio(times_s[yardstick], times_s["stepcast"])),
        "speed_over_apart": asdict(ratio(times_s["apart"], times_s["stepcast"])),
        "time_over_products": asdict(ratio(times_s["stepcast"], times_s["products"])),
        "times_s": times_s,
    }  # fmt: skip


def two_ranks_table(records: list[dict[str, Any]]) -> Table:
    """Return the table of the rates and their ratios."""
    title = "\nsamples/s of two ranks, a thread each, float32; ratios: median (least..most) of the rounds"  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="")  # fmt: skip
    for heading in ("net", "batch a rank", "Stepcast", "DDP", "apart", "products", "speed / DDP", "speed / apart", "time / products"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "net" else "right", no_wrap=True)
    for record in records:
        rates = record["samples_per_s"]
        names = ("stepcast", record["yardstick"], "apart", "products")
        ratios = ("speed_over_ddp", "speed_over_apart", "time_over_products")
        table.add_row(
            record["net"], str(record["batch_per_rank"]), *(f"{rates[name]:,.0f}" for name in names),
            *("{median:.2f} ({low:.2f}..{high:.2f})".format(**record[key]) for key in ratios),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    run_app(app)
