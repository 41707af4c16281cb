"""Gradients through a window of shared memory: the all-reduce and the update of replicas on one node.

Every replica computes its gradient into a window that the others can read. After a barrier each adds
up its own slice of all windows, which is the reduce-scatter, and updates that slice of the one set
of weights that all use, so that no all-gather is left to do; a second barrier ends the step. Of g
ranks and n bytes each reads n and writes 2 n / g; nothing is sent and nothing is copied.

Source: T. Hoefler et al., "MPI + MPI: a new hybrid approach to parallel programming with MPI plus
shared memory", Computing 95 (2013) 1121-1136, for the window; the update by slices is that of S.
Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020.
"""

from collections.abc import Iterator

from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.plan.nodes import check_nodes
from exec.plan.options import PlanOptions
from exec.plan.passes import passed
from exec.plan.strategy import SYNCHRONOUS
from exec.plan.writer import Writer, update
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
    Lane,
    Mark,
    Op,
    Repeat,
    Wait,
)
from exec.program.peers import Chunks, Part, Shift

_NOTHING = Part("grad", 0, 0)


def uses_window(mesh: Mesh, options: PlanOptions) -> bool:
    """Say whether the replicas of a plan share a window and one set of weights."""
    is_asked = options.algorithm is Algorithm.SHARED_WINDOW
    return is_asked and options.strategy in SYNCHRONOUS and mesh.dp > 1


def check_window(mesh: Mesh, options: PlanOptions, ranks_per_node: int) -> None:
    """Raise :class:`UsageError` unless replicas that share a window share a node's memory."""
    if not uses_window(mesh, options):
        return
    if options.device is not DeviceKind.CPU:
        raise UsageError(
            f"algorithm shared_window needs --device cpu, got {options.device}; use --algorithm library"
        )
    if (together := _least_together(mesh, ranks_per_node)) != mesh.dp:
        raise UsageError(
            f"algorithm shared_window needs all {mesh.dp} replicas on one node, got {together} of them "
            f"with {ranks_per_node} ranks on a node; use --algorithm hierarchical or library"
        )


def _least_together(mesh: Mesh, ranks_per_node: int) -> int:
    """Return how many replicas are on the node of their first one, where they are fewest."""
    groups = (mesh.group(first, Axis.DP) for first in range(mesh.pp * mesh.tp))
    nodes = ([rank // ranks_per_node for rank in group] for group in groups)
    return min(each.count(each[0]) for each in nodes)


def check_placement(mesh: Mesh, options: PlanOptions, ranks_per_node: int) -> None:
    """Raise :class:`UsageError` unless the algorithm can be laid over nodes of ``ranks_per_node``."""
    if options.algorithm is Algorithm.HIERARCHICAL:
        check_nodes(mesh, ranks_per_node)
    check_window(mesh, options, ranks_per_node)


def slice_of(buffer: str, size: int, ranks: int) -> Part:
    """Return the slice of ``size`` elements of ``buffer`` that a rank adds up, updates and saves."""
    return Part(buffer, 0, size, chunks=Chunks(ranks, Shift(Axis.DP, 0)))


def reduce_and_update(stage: Writer) -> Iterator[Op]:
    """Yield what follows the passes of a replica that shares a window with the others."""
    ranks, size = stage.mesh.dp, stage.layout.num_parameters
    gradient = slice_of("grad", size, ranks)
    yield Wait(Lane.COMM, passed(stage))
    yield Collective("written", CollectiveKind.BARRIER, _NOTHING, Axis.DP)
    yield Repeat(ranks - 1, (Accumulate(gradient, gradient, Shift(Axis.DP, 1, 1)),))
    yield Mark("reduced")
    yield Wait(Lane.COMPUTE, "reduced")
    step = update(stage, slice_of("param", size, ranks), -(-size // ranks))
    yield step
    yield Wait(Lane.COMM, step.id)
    yield Collective("updated", CollectiveKind.BARRIER, _NOTHING, Axis.DP)
    yield Wait(Lane.COMPUTE, "updated")
