"""An epoch by any strategy: the one table of them, and what each demands."""

from collections.abc import Callable
from dataclasses import dataclass

from exec.errors import UsageError
from exec.network.modules import BatchNorm2d
from exec.plan.averaging import plan_averaging
from exec.plan.layout import check_mesh
from exec.plan.master import plan_master
from exec.plan.options import PlanOptions
from exec.plan.segment import Segment, remaining
from exec.plan.server import plan_async_server, plan_server
from exec.plan.shared import plan_shared
from exec.plan.step import plan_synchronous
from exec.plan.strategy import LOCKSTEP, MASTERS, ROUNDS, SERVERS, SHARED, Strategy
from exec.plan.window import uses_window
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload

PlanEpoch = Callable[[Workload, Mesh, PlanOptions, int], tuple[Segment, ...]]

_PLANS: dict[Strategy, PlanEpoch] = {
    **dict.fromkeys(LOCKSTEP, plan_synchronous),
    Strategy.AVERAGING: plan_averaging,
    **dict.fromkeys(MASTERS, plan_master),
    Strategy.SERVER: plan_server,
    Strategy.ASYNC_SERVER: plan_async_server,
    **dict.fromkeys(SHARED, plan_shared),
}


def plan_epoch(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return the programs of an epoch of ``num_samples``, in the order in which they are done."""
    return _PLANS[options.strategy](workload, mesh, options, num_samples)


@dataclass(frozen=True, slots=True)
class Rest:
    """What is ``left`` of an epoch of which the turns after ``planned_from`` samples are ``planned``."""

    planned: tuple[Segment, ...]
    left: tuple[Segment, ...]
    planned_from: int


def plan_rest(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int,
    segments: tuple[Segment, ...], samples: int, planned_from: int,
) -> Rest:  # fmt: skip
    """Return what is left of an epoch after ``samples``.

    ``segments`` are those of the whole epoch. Unless ``planned_from`` is 0 the epoch was planned
    anew from there. If another plan stopped where no turn of this one ends, it is planned anew
    from ``samples``.
    """
    if planned_from:
        segments = plan_epoch(workload, mesh, options, num_samples - planned_from)
    left = remaining(segments, samples - planned_from)
    if left is not None:
        return Rest(segments, left, planned_from)
    anew = plan_epoch(workload, mesh, options, num_samples - samples)
    return Rest(anew, anew, samples)


def num_trainers(mesh: Mesh, options: PlanOptions) -> int:
    """Return how many dp coordinates train; the others serve."""
    idle = 1 if options.strategy in MASTERS else options.servers if options.strategy in SERVERS else 0  # fmt: skip
    return mesh.dp - idle


def check_plan(workload: Workload, mesh: Mesh, options: PlanOptions) -> None:
    """Raise :class:`UsageError` unless the network, the batch and the mesh admit the strategy."""
    strategy = options.strategy
    if options.average_every < 0:
        raise UsageError(f"average-every must be at least 1, or epoch, got {options.average_every}")
    if strategy in SERVERS and not 1 <= options.servers < mesh.dp:
        raise UsageError(
            f"servers must be at least 1 and leave a worker of the {mesh.dp} ranks, got "
            f"{options.servers}; use fewer servers or more ranks"
        )
    if options.sync_batchnorm and strategy not in LOCKSTEP:
        raise UsageError(
            f"sync-batchnorm needs ranks that take every step together, got strategy {strategy}"
        )
    if strategy in MASTERS and mesh.dp < 2:
        raise UsageError(f"ranks must be at least 2 for {strategy}: a master and a worker, got {mesh.dp}")  # fmt: skip
    if strategy not in (*LOCKSTEP, Strategy.AVERAGING):
        if options.num_microbatches > 1:
            raise UsageError(f"microbatches must be 1 for {strategy}, got {options.num_microbatches}")  # fmt: skip
        if options.servers > workload.num_parameters:
            raise UsageError(f"servers must be at most the {workload.num_parameters} parameters, got {options.servers}")  # fmt: skip
    trainers = num_trainers(mesh, options)
    check_mesh(workload, Mesh(trainers, mesh.pp, mesh.tp), options)


def idle_options(workload: Workload, mesh: Mesh, options: PlanOptions) -> list[str]:
    """Return the options that were given and that change nothing about this plan.

    The plan is legal: :func:`check_plan` refuses stages where there is no pipeline.
    """
    strategy = options.strategy
    has_batchnorm = any(isinstance(node.module, BatchNorm2d) for node in workload.network.nodes)
    averages = strategy is Strategy.AVERAGING
    reduces = strategy in LOCKSTEP and mesh.world_size > mesh.pp
    idle = []
    in_window = uses_window(mesh, options)
    if options.overlap and (
        in_window or not (strategy in LOCKSTEP and (mesh.dp > 1 or options.is_exchanged))
    ):
        idle.append("overlap")
    changes = (
        in_window
        if options.algorithm is Algorithm.SHARED_WINDOW
        else reduces or (averages and mesh.dp > 1)
    )
    if options.algorithm is not Algorithm.LIBRARY and not changes:
        idle.append("algorithm")
    if options.average_every != 1 and strategy not in ROUNDS:
        idle.append("average-every")
    if options.sync_batchnorm and not (has_batchnorm and (mesh.dp > 1 or options.is_exchanged)):
        idle.append("sync-batchnorm")
    if options.servers != 1 and strategy not in SERVERS:
        idle.append("servers")
    return idle
