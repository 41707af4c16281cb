"""Gradients through windows of shared memory: the all-reduce and the update of replicas on a node.

Every replica computes its gradient into a window that the others can read. After a barrier each adds
up its own slice of all windows, which is the reduce-scatter, and updates that slice of the one set
of weights that all use, so that no all-gather is left to do; a second barrier ends the step. Of g
ranks and n bytes each reads n and writes 2 n / g; nothing is sent and nothing is copied.

On several nodes (algorithm hierarchical) each node has windows and weights of its own. Between sum
and update every rank all-reduces its slice with those of equal place on the other nodes, by messages.

Where each bucket is to be reduced during the backward pass (overlap), messages do it: on a CPU a sum
of windows takes the very core that computes, so nothing would go on beside anything.

Source: T. Hoefler et al., "MPI + MPI: a new hybrid approach to parallel programming with MPI plus
shared memory", Computing 95 (2013) 1121-1136, for the window; the update by slices is that of S.
Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020.
"""

from collections.abc import Iterator

from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.plan.nodes import check_nodes, node_size, without_effect
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
    Scope,
    Wait,
)
from exec.program.peers import Chunks, Part, Shift, split_start

_NOTHING = Part("grad", 0, 0)


def chosen_algorithm(mesh: Mesh, options: PlanOptions, ranks_per_node: int) -> Algorithm:
    """Return how replicas all-reduce unless the user says: in a window where one node has them all.

    The trainer and the forecast both ask. With overlap, on devices and on several nodes it is the
    library's.
    """
    is_one_node = mesh.dp > 1 and mesh.world_size <= ranks_per_node
    is_host = options.device is DeviceKind.CPU and options.shares_memory
    if is_one_node and is_host and not options.overlap and options.strategy in SYNCHRONOUS:
        return Algorithm.SHARED_WINDOW
    return Algorithm.LIBRARY


def window_size(mesh: Mesh, options: PlanOptions) -> int:
    """Return how many replicas in a row share a window and one set of weights; 1 if none do.

    Raises:
        UsageError: algorithm hierarchical cannot be laid over the nodes.
    """
    if options.strategy not in SYNCHRONOUS or mesh.dp == 1:
        return 1
    if options.algorithm is Algorithm.SHARED_WINDOW:
        return mesh.dp
    is_host = options.device is DeviceKind.CPU and options.shares_memory
    if options.algorithm is not Algorithm.HIERARCHICAL or options.overlap or not is_host:
        return 1
    return node_size(mesh, Axis.DP, options.ranks_per_node)


def uses_window(mesh: Mesh, options: PlanOptions) -> bool:
    """Say whether all replicas of a plan are to share one window and one set of weights."""
    return options.algorithm is Algorithm.SHARED_WINDOW and window_size(mesh, options) > 1


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


def nodes_note(mesh: Mesh, options: PlanOptions, ranks_per_node: int, *, is_given: bool) -> str:
    """Return why the nodes make no difference to a step, or nothing if they do.

    ``ranks_per_node`` may have been given.
    """
    if options.algorithm is Algorithm.HIERARCHICAL and 1 < window_size(mesh, options) == mesh.dp:
        return "note: algorithm hierarchical is shared_window here: one node has all replicas"
    return without_effect(mesh, options.algorithm, ranks_per_node, is_given=is_given)


def slice_of(buffer: str, size: int, ranks: int, sharers: int = 0) -> Part:
    """Return the slice of ``size`` elements of ``buffer`` that a rank adds up, updates and saves.

    With ``sharers`` of the ``ranks`` in each window, it is a block of as many chunks as there are
    windows, one for each rank of equal place.
    """
    place, sharers = Shift(Axis.DP, 0), sharers or ranks
    node = sharers if sharers < ranks else 1  # a single node's chunks are in the order of ranks
    return Part(buffer, 0, size, chunks=Chunks(ranks, place, ranks // sharers, node))


def reduce_and_update(stage: Writer) -> Iterator[Op]:
    """Yield what follows the passes of a replica that shares a window with others."""
    mesh, size = stage.mesh, stage.layout.num_parameters
    sharers = window_size(mesh, stage.options) if stage.options.strategy in SYNCHRONOUS else mesh.dp
    windows, is_one = mesh.dp // sharers, sharers == mesh.dp
    gradient = slice_of("grad", size, mesh.dp, sharers)
    yield Wait(Lane.COMM, passed(stage))
    yield _barrier("written", sharers, is_one=is_one)
    other = Shift(Axis.DP, 1, 1, 0 if is_one else sharers)
    yield Repeat(sharers - 1, (Accumulate(gradient, gradient, other),))
    if is_one:
        yield Mark("reduced")
    else:
        yield Collective("reduced", CollectiveKind.ALLREDUCE, Part("grad", 0, size), Axis.DP,
                         Algorithm.HIERARCHICAL, node_size=sharers, scope=Scope.BETWEEN)  # fmt: skip
    yield Wait(Lane.COMPUTE, "reduced")
    most = split_start(size, mesh.dp, windows)
    step = update(stage, slice_of("param", size, mesh.dp, sharers), most)
    yield step
    yield Wait(Lane.COMM, step.id)
    yield _barrier("updated", sharers, is_one=is_one)
    yield Wait(Lane.COMPUTE, "updated")


def _barrier(id: str, sharers: int, *, is_one: bool) -> Collective:
    """Return the barrier of the replicas that share a window."""
    kind = CollectiveKind.BARRIER
    if is_one:
        return Collective(id, kind, _NOTHING, Axis.DP)
    return Collective(id, kind, _NOTHING, Axis.DP, node_size=sharers, scope=Scope.INSIDE)
