"""Balance: pipeline stages cut so that the costliest takes as little time as it can on a Machine.

Flops say little of layers that move data: a normalisation has few and takes long. So the cuts of a
forecast weigh each layer by what the Machine says its kernels take.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from exec.errors import UsageError
from exec.network.network import Network
from exec.plan.layout import check_mesh, held_elements, layout_of
from exec.plan.options import PlanOptions
from exec.plan.schedule import num_slots
from exec.plan.stages import balanced, stage_nodes
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel
from exec.program.peers import split_size
from exec.program.program import Program
from exec.workload import Workload
from sim.costs import Costs
from sim.placement import placed
from sim.work import tally

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class StageLoad:
    """What a step costs the rank of a stage that has most to do: ``first_layer`` and what follows.

    ``time_s`` is what it computes for all microbatches, its update included, at the pace of the
    stage's slowest rank.
    """

    first_layer: str
    num_layers: int
    time_s: float
    num_parameters: int
    memory_bytes: int


def stage_loads(program: Program, network: Network, cuts: tuple[int, ...], costs: Costs) -> tuple[StageLoad, ...]:  # fmt: skip
    """Return the load of each stage of a step's ``program``, whose stages begin at ``cuts``."""
    found, paces = [], stage_paces(costs)
    for stage, nodes in enumerate(stage_nodes(network, program.mesh.pp, cuts)):
        roles = [role for role in program.roles if stage in role.pp]
        times_s = [costs.work_s(tally(role.ops), role.nbytes) for role in roles]
        sizes = [part.size for role in roles if (part := role.held("param"))]
        nbytes = max(role.nbytes for role in roles)
        found.append(StageLoad(network.nodes[nodes.start].name, len(nodes), paces[stage] * max(times_s), max(sizes), nbytes))  # fmt: skip
    return tuple(found)


def imbalance(loads: Sequence[StageLoad]) -> float:
    """Return how many times longer the costliest stage takes than the mean; 1 without stages."""
    if not loads:
        return 1.0
    return max(load.time_s for load in loads) * len(loads) / sum(load.time_s for load in loads)


def calibrated(costs: Costs, workload: Workload, options: PlanOptions) -> PlanOptions:
    """Return ``options`` with the cuts that ``costs`` balance; as they are, if they have cuts.

    A stage takes as long as its slowest rank. What a rank holds depends on the cuts, and how long its kernels take on what it holds: so a few
    rounds of both, from stages of equal flops, of which the best is taken. Cuts whose layers are too
    narrow to be split are not.
    """
    options = placed(options, costs.machine)
    pp = costs.mesh.pp
    if pp == 1 or options.stages:
        return options
    network = workload.network
    cuts = tuple(nodes.start for nodes in stage_nodes(network, pp)[1:])
    paces = stage_paces(costs)
    tried: dict[tuple[int, ...], float] = {}
    for _ in range(_ROUNDS):
        times_s = node_times_s(costs, workload, replace(options, stages=cuts))
        stages = stage_nodes(network, pp, cuts)
        tried[cuts] = max(pace * sum(times_s[nodes.start : nodes.stop]) for nodes, pace in zip(stages, paces, strict=True))  # fmt: skip
        cuts = balanced(network, pp, times_s, paces)
        if cuts in tried or not _admits(workload, costs.mesh, replace(options, stages=cuts)):
            break
    return replace(options, stages=min(tried, key=tried.__getitem__))


def _admits(workload: Workload, mesh: Mesh, options: PlanOptions) -> bool:
    try:
        check_mesh(workload, mesh, options)
    except UsageError:
        return False
    return True


def stage_paces(costs: Costs) -> list[float]:
    """Return how many times longer the slowest rank of each stage computes."""
    mesh = costs.mesh
    paces = [1.0] * mesh.pp
    for rank in costs.slow_ranks():
        stage = mesh.coordinates(rank)[1]
        paces[stage] = max(paces[stage], costs.slowness_of(rank))
    return paces


def node_times_s(costs: Costs, workload: Workload, options: PlanOptions) -> list[float]:
    """Return what each node of ``workload`` takes for a microbatch, forward and backward.

    The first has the loading too, the last the loss, and each a share of the update: that of its
    parameters in those of its stage, over the microbatches.
    """
    mesh, count = costs.mesh, options.num_microbatches
    rows = split_size(split_size(workload.global_batch, mesh.dp, 0), count, 0)
    alone = Mesh(1, mesh.pp, mesh.tp)
    plain = PlanOptions(stages=options.stages, device=options.device)
    program = _microbatch(replace(workload, global_batch=rows), alone, plain)
    times_s: dict[int, float] = defaultdict(float)
    for role in program.roles:
        if role.tp.start > 0:  # the first has at least as much as any other
            continue
        stage = role.pp.start
        layout = layout_of(workload.network, alone, stage, 0, options)
        slots = num_slots(options.schedule, stage, mesh.pp, count)
        held = held_elements(layout, workload, slots, rows) * workload.itemsize
        for op in role.ops:
            if isinstance(op, Compute):
                time_s = costs.compute_s(op, held)
                if op.kernel is not Kernel.UPDATE:
                    times_s[op.layer] += time_s
                    continue
                for shard in layout.shards:
                    share = shard.num_parameters / layout.num_parameters
                    times_s[shard.node] += time_s * share / count
    return [times_s[node] for node in range(len(workload.network.nodes))]


@lru_cache(maxsize=1024)
def _microbatch(workload: Workload, mesh: Mesh, options: PlanOptions) -> Program:
    return plan_step(workload, mesh, options)
