"""Op times for padded compute: ``python -m sim.pace --strategy data --ranks 8 --multiple 20 --out FILE``.

The times are those of a Machine whose compute takes so many times as long, and in which nothing
else differs: no caches, no neighbours, no noise. That Machine is written too, so that a forecast
knows exactly what the trainer computes (``python -m exec.train --pace FILE``), and has only to get
the messages right.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibration.find import find_machine
from calibration.machine import Machine, write_machine
from exec.cli import console, make_app, run_app
from exec.errors import MachineError, UsageError
from exec.network.parse import parse_net
from exec.plan.collectives import expand
from exec.plan.epoch import check_plan, plan_epoch
from exec.plan.options import PlanOptions, parse_every
from exec.plan.schedule import Schedule
from exec.plan.segment import programs_of
from exec.plan.stages import parse_stages
from exec.plan.strategy import Strategy, mesh_of
from exec.plan.window import check_placement, chosen_algorithm
from exec.program.mesh import Mesh
from exec.program.ops import Accumulate, Algorithm, Compute, Kernel, Scale, Shape
from exec.program.program import Program
from exec.workload import Workload, positive
from sim.costs import Costs

app = make_app("python -m sim.pace", "Write how long a training's padded ops are to take.")
Flag = Annotated[bool, Parameter(negative=())]

_UNBOUNDED = 1 << 62  # bytes of a cache that holds all
_UNCONTENDED = 1 << 10  # cores, more than any node's ranks


@app.default
def main(
    *,
    multiple: float,
    out: Path,
    machine: str = "local",
    machine_out: Path | None = None,
    net: str = "128-100-26",
    batch: int = 32,
    ranks: int = 1,
    strategy: Strategy = Strategy.DATA,
    dp: int | None = None,
    pp: int | None = None,
    tp: int | None = None,
    microbatches: int = 1,
    schedule: Schedule = Schedule.ONE_F_ONE_B,
    stages: str | None = None,
    algorithm: Algorithm | None = None,
    ranks_per_node: int | None = None,
    overlap: Flag = False,
    bucket_kib: int = 4096,
    sync_batchnorm: Flag = False,
    average_every: str = "1",
    servers: int = 1,
    momentum: Flag = False,
    num_train: int = 20_000,
) -> None:
    """Write how long a training's padded ops are to take: what exec.train --pace reads.

    Parameters
    ----------
    multiple
        How many times their time on the machine the ops are to take.
    out
        The pace file.
    machine
        A shipped Machine, local (this machine's profile) or a file.
    machine_out
        Write the Machine whose compute takes so long here: compute for forecasts, without links.
    net
        The network, spelled as for exec.train; so are the options below.
    batch
        The global batch.
    ranks
        How many ranks train.
    strategy
        How they share the work.
    dp
        Replicas of a hybrid.
    pp
        Pipeline stages of a hybrid.
    tp
        Shards of each layer of a hybrid.
    microbatches
        Parts into which each replica's batch is cut.
    schedule
        The pipeline's schedule.
    stages
        The first layers of all pipeline stages but the first.
    algorithm
        The collectives' algorithm; unless given the file has the ops of whatever exec.train may choose.
    ranks_per_node
        Ranks on each node, for algorithm hierarchical, which needs it.
    overlap
        All-reduce each gradient bucket while the backward pass goes on.
    bucket_kib
        The least size of a gradient bucket.
    sync_batchnorm
        Let replicas normalise by the statistics of the whole batch.
    average_every
        Steps between two averages; epoch for a whole one.
    servers
        How many ranks serve parameters.
    momentum
        Train with momentum.
    num_train
        Training samples; the last batch of an epoch may be short, and has times of its own.
    """
    for option, value in (("multiple", multiple), ("ranks", ranks), ("microbatches", microbatches),
                          ("bucket-kib", bucket_kib), ("num-train", num_train),
                          ("ranks-per-node", 1 if ranks_per_node is None else ranks_per_node)):  # fmt: skip
        positive(option, value)
    for option, path in (("out", out), ("machine-out", machine_out)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{option} must be a file in a folder that exists, got {path}")
    slower = dilated(find_machine(machine), multiple)
    assert slower.compute is not None
    network = parse_net(net)
    itemsize = 8 if slower.compute.dtype == "float64" else 4
    workload = Workload(network, batch, itemsize, momentum)
    mesh = mesh_of(strategy, ranks, dp, pp, tp)
    options = PlanOptions(microbatches, schedule, bucket_kib << 10, overlap, algorithm or Algorithm.LIBRARY, strategy,
                          parse_every(average_every), servers, ranks_per_node=ranks_per_node or 1,
                          stages=parse_stages(stages, network), sync_batchnorm=sync_batchnorm)  # fmt: skip
    check_plan(workload, mesh, options)
    if algorithm is Algorithm.HIERARCHICAL and ranks_per_node is None:
        raise UsageError("ranks-per-node must be given for algorithm hierarchical")
    check_placement(mesh, options, ranks_per_node or mesh.world_size)
    pace = pace_of(slower, multiple, workload, mesh, options, num_train)
    if algorithm is None:
        alone = replace(options, algorithm=chosen_algorithm(mesh, options, mesh.world_size))
        for kernel, times_s in pace_of(slower, multiple, workload, mesh, alone, num_train)["times_s"].items():  # fmt: skip
            pace["times_s"].setdefault(kernel, {}).update(times_s)
    out.write_text(json.dumps(pace, indent=1) + "\n", encoding="utf-8")
    if machine_out is not None:
        write_machine(slower, machine_out)
    times = sum(map(len, pace["times_s"].values()))
    console().print(f"{times} op times of {slower.name}, written to {out}")


def dilated(machine: Machine, multiple: float) -> Machine:
    """Return a Machine on which every op takes ``multiple`` times as long, and always the same.

    It has no links.

    Raises:
        MachineError: ``machine`` says nothing of compute.
    """
    compute = machine.compute
    if compute is None:
        raise MachineError(f"machine {machine.name} says nothing of compute, so it has no op times")
    kernels = {
        kernel: model.model_copy(update={
            "coefficients_s": {name: multiple * each for name, each in model.coefficients_s.items()},
            "rel_sigma": 0.0,
        })
        for kernel, model in compute.kernels.items()
    }  # fmt: skip
    padded = compute.model_copy(update={
        "source": f"padded to {multiple:g} times {machine.name}: {compute.source}",
        "cores_per_node": _UNCONTENDED, "cache_nbytes": (_UNBOUNDED, _UNBOUNDED),
        "kernels": kernels, "step_overhead_s": 0.0, "busy_slowdown": 1.0, "noise_rel_sigma": 0.0,
    })  # fmt: skip
    return machine.model_copy(update={
        "name": f"{machine.name} x {multiple:g}",
        "description": f"compute padded to {multiple:g} times that of: {machine.description}",
        "compute": padded, "links": {}, "storage": None, "overlap_share": 0.0, "node_slowness": {},
    })  # fmt: skip


def pace_of(
    machine: Machine, multiple: float, workload: Workload, mesh: Mesh, options: PlanOptions,
    num_samples: int,
) -> dict[str, Any]:  # fmt: skip
    """Return the pace of an epoch of ``num_samples`` on a ``machine`` that was dilated.

    The format is that of :mod:`exec.runtime.pace`.
    """
    costs = Costs(machine, mesh, 1)
    times_s: dict[str, dict[str, float]] = defaultdict(dict)
    # Where ranks share memory, and where not: the trainer finds out when it runs.
    for each in {options: None, replace(options, shares_memory=False): None}:
        for program in programs_of(plan_epoch(workload, mesh, each, num_samples)):
            for kernel, shape in _shapes(expand(program)):
                times_s[kernel][str(shape)] = costs.kernel_s(kernel, shape, held_nbytes=0)
    return {"format": "stepcast-pace-1", "multiple": multiple, "source": machine.name, "times_s": times_s}  # fmt: skip


def _shapes(program: Program) -> Iterator[tuple[Kernel, Shape]]:
    """Yield what the ranks of ``program`` compute, each as often as it is done."""
    for rank in range(program.mesh.world_size):
        for op in program.ops(rank):
            match op:
                case Compute(kernel, shape=shape):
                    yield kernel, shape
                case Accumulate(part) | Scale(part):
                    yield Kernel.ACCUMULATE, Shape(0, 0, part.size)
                case _:
                    pass


if __name__ == "__main__":
    run_app(app)
