"""Print what each rank will do: ``python -m exec.program --strategy hybrid --dp 2 --pp 2``."""

import math
import sys
from typing import Annotated

from cyclopts import Parameter

from exec.cli import make_app, run_app
from exec.errors import UsageError
from exec.network.parse import parse_net
from exec.plan.collectives import expand
from exec.plan.epoch import check_plan, plan_epoch
from exec.plan.options import PlanOptions, parse_every
from exec.plan.schedule import Schedule
from exec.plan.stages import parse_stages
from exec.plan.strategy import LOCKSTEP, Strategy, mesh_of
from exec.plan.window import check_placement, nodes_note
from exec.program.check import check_program
from exec.program.ops import Algorithm
from exec.program.program import Program
from exec.program.text import format_op, format_program
from exec.workload import Workload, positive

app = make_app("python -m exec.program", "Print the program of one training step.")
Flag = Annotated[bool, Parameter(negative=())]
_MAX_CHECKED_RANKS = 256


@app.default
def show(
    *,
    net: str = "128-100-26",
    batch: int = 32,
    strategy: Strategy = Strategy.HYBRID,
    ranks: int | None = None,
    dp: int | None = None,
    pp: int | None = None,
    tp: int | None = None,
    microbatches: int = 1,
    schedule: Schedule = Schedule.ONE_F_ONE_B,
    stages: str | None = None,
    sync_batchnorm: Flag = False,
    algorithm: Algorithm = Algorithm.LIBRARY,
    ranks_per_node: int | None = None,
    overlap: Flag = False,
    bucket_kib: int = 4096,
    average_every: str = "1",
    servers: int = 1,
    steps: int = 8,
    rank: int | None = None,
) -> None:
    """Print the program of one training step, or of those of a round that differ, role by role.

    It is checked first: every message matched, no deadlock.

    Parameters
    ----------
    net
        Widths of the layers, the name of a network such as resnet18, or a TOML or ONNX file.
    batch
        The global batch.
    strategy
        How to share the work.
    ranks
        How many ranks; for a hybrid dp x pp x tp unless given.
    dp
        Replicas.
    pp
        Pipeline stages.
    tp
        Shards of each layer.
    microbatches
        Parts into which each replica's batch is cut.
    schedule
        The pipeline's schedule.
    stages
        The first layers of all pipeline stages but the first, as layer2.0.conv1,fc; balanced by
        flops unless given.
    sync_batchnorm
        Let replicas normalise by the whole batch.
    algorithm
        The collectives' algorithm.
    ranks_per_node
        Ranks on each node, in order, for algorithm hierarchical; all of them unless given.
    overlap
        All-reduce each gradient bucket while the backward pass goes on.
    bucket_kib
        The least size of a gradient bucket.
    average_every
        Steps between two averages (averaging, master); epoch for a whole one.
    servers
        How many ranks serve parameters (server, async_server).
    steps
        Batches in the epoch, for the strategies whose steps differ.
    rank
        Print the concrete ops of this rank instead: loops unrolled, peers and parts resolved.
    """
    if ranks is None and strategy not in (Strategy.HYBRID, Strategy.SERIAL) and dp == pp == tp:
        raise UsageError(f"ranks must be given for strategy {strategy}, such as --ranks 4")
    if ranks is None:
        ranks = math.prod(factor or 1 for factor in (dp, pp, tp))
        if strategy is Strategy.HYBRID:
            dp, pp, tp = dp or 1, pp or 1, tp or 1
    mesh = mesh_of(strategy, ranks, dp, pp, tp)
    workload = Workload(parse_net(net), batch)
    positive("ranks-per-node", 1 if ranks_per_node is None else ranks_per_node)
    if microbatches < 1 or bucket_kib < 1:
        raise UsageError(f"microbatches and bucket-kib must be at least 1, got {microbatches} and {bucket_kib}")  # fmt: skip
    positive("steps", steps)
    on_node = mesh.world_size if ranks_per_node is None else ranks_per_node
    options = PlanOptions(microbatches, schedule, bucket_kib << 10, overlap, algorithm, strategy,
                          parse_every(average_every), servers, ranks_per_node=on_node,
                          stages=parse_stages(stages, workload.network), sync_batchnorm=sync_batchnorm)  # fmt: skip
    check_plan(workload, mesh, options)
    check_placement(mesh, options, on_node)
    if rank is not None and not 0 <= rank < mesh.world_size:
        raise UsageError(f"rank must be 0 .. {mesh.world_size - 1}, got {rank}")
    if note := nodes_note(mesh, options, on_node, is_given=ranks_per_node is not None):
        sys.stderr.write(f"{note}\n")
    segments = plan_epoch(workload, mesh, options, steps * batch)
    if strategy in LOCKSTEP:
        segments = segments[:1]
    expanded = {id(each.program): expand(each.program) for each in segments}
    if mesh.world_size <= _MAX_CHECKED_RANKS:
        for program in expanded.values():
            check_program(program.with_tickets(_MAX_CHECKED_RANKS))
    for key, program in expanded.items():
        if len(expanded) > 1:
            times = sum(each.times for each in segments if id(each.program) == key)
            print(f"# {times} of the epoch's {sum(each.times for each in segments)} times")
        _print(program, rank)


def _print(program: Program, rank: int | None) -> None:
    if rank is None:
        print(format_program(program), end="")
        return
    print(f"rank {rank} of {program.mesh.world_size} plays {program.role_of(rank).name}")
    for op in program.ops(rank):
        print("\n".join(format_op(op)))


if __name__ == "__main__":
    run_app(app)
