"""Where to cut a network into pipeline stages: ``python -m sim.stages --net resnet18-small --pp 2``."""

import json as json_format
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from calibration.find import find_machine
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.network.parse import parse_net
from exec.plan.layout import check_mesh
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.workload import Workload, positive
from sim.balance import StageLoad, calibrated, imbalance, stage_loads
from sim.costs import Costs
from sim.placement import placed

app = make_app("python -m sim.stages", "Cut a network into pipeline stages that take equally long.")
Flag = Annotated[bool, Parameter(negative=())]

BY_FLOPS, BY_MACHINE = "balanced by flops", "balanced by the machine"


@app.default
def stages(
    *,
    net: str = "resnet18-small",
    pp: int = 2,
    dp: int = 1,
    tp: int = 1,
    batch: int = 32,
    microbatches: int = 1,
    schedule: Schedule = Schedule.ONE_F_ONE_B,
    machine: str = "local",
    ranks_per_node: int | None = None,
    plain: Flag = False,
    json: Flag = False,
) -> None:
    """Print the stages of a pipeline, balanced by flops and by what a machine takes for each layer.

    Parameters
    ----------
    net
        The network, spelled as for exec.train.
    pp
        Pipeline stages.
    dp
        Replicas, which share the batch.
    tp
        Shards of each layer.
    batch
        The global batch.
    microbatches
        Parts into which each replica's batch is cut.
    schedule
        The pipeline's schedule: with it goes what a rank holds.
    machine
        A shipped Machine, local (this machine's profile) or a file; a+b takes from b what a lacks.
    ranks_per_node
        Ranks on each node; all of them unless given.
    plain
        Print only what exec.train --stages takes: the first layers of all stages but the first.
    json
        Print one JSON record instead of a table.
    """
    for option, value in (("pp", pp), ("dp", dp), ("tp", tp), ("microbatches", microbatches),
                          ("ranks-per-node", 1 if ranks_per_node is None else ranks_per_node)):  # fmt: skip
        positive(option, value)
    if plain and json:
        raise UsageError("plain and json must not both be given; each prints in its own way")
    if pp < 2:
        raise UsageError(f"pp must be at least 2: one stage has no cut, got {pp}")
    found = find_machine(machine)
    itemsize = 8 if found.compute is not None and found.compute.dtype == "float64" else 4
    workload = Workload(parse_net(net), batch, itemsize)
    mesh, options = Mesh(dp, pp, tp), placed(PlanOptions(microbatches, schedule), found)
    check_mesh(workload, mesh, options)
    costs = Costs(found, mesh, mesh.world_size if ranks_per_node is None else ranks_per_node)
    ways = {BY_FLOPS: options, BY_MACHINE: calibrated(costs, workload, options)}
    loads = {
        name: stage_loads(plan_step(workload, mesh, each), workload.network, each.stages, costs)
        for name, each in ways.items()
    }
    first_layers = ",".join(load.first_layer for load in loads[BY_MACHINE][1:])
    if plain:
        print(first_layers)
    elif json:
        record = {
            "machine": found.name, "net": workload.net, "batch": batch, "mesh": asdict(mesh),
            "microbatches": microbatches, "stages": first_layers,
            "by_flops": _record(loads[BY_FLOPS]), "by_machine": _record(loads[BY_MACHINE]),
        }  # fmt: skip
        print(json_format.dumps(record, allow_nan=False))
    else:
        out = console(120)
        out.print(f"{workload.net} in {pp} stages, dp x pp x tp = {mesh}, batch {batch}, {microbatches} microbatch{'es' * (microbatches > 1)}, on {found.name}")  # fmt: skip
        for name, each in loads.items():
            _print(out, name, each)
        if costs.extrapolated:
            out.print(f"~ beyond what was measured: {len(costs.extrapolated)} shapes")
        out.print(f"\nuse them: --stages {first_layers}")


def _record(loads: tuple[StageLoad, ...]) -> dict[str, object]:
    return {"imbalance": imbalance(loads), "stages": [asdict(load) for load in loads]}


def _print(out: Console, title: str, loads: tuple[StageLoad, ...]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stage", "first layer", "layers", "ms a step", "share", "parameters", "MiB a rank"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "first layer" else "right", no_wrap=True)  # fmt: skip
    total_s = sum(load.time_s for load in loads)
    for number, load in enumerate(loads):
        table.add_row(str(number), load.first_layer, str(load.num_layers), f"{load.time_s * 1e3:.4g}", f"{load.time_s / total_s:.0%}",
                      f"{load.num_parameters:,}", f"{load.memory_bytes / 2**20:.4g}")  # fmt: skip
    out.print(f"\n{title}: the costliest stage takes {imbalance(loads):.3f} times the mean")
    out.print(table)


if __name__ == "__main__":
    run_app(app)
