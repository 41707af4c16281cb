"""The ops of a training step on one rank, but for what replicas say to each other.

A stage's forward and backward are written here, for any layout; the order of microbatches comes
from the schedule. Every strategy starts from these and adds its messages.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from exec.plan.layout import Layout, held_elements, layout_of, tensor_classes
from exec.plan.nodes import node_size
from exec.plan.options import PlanOptions
from exec.plan.places import EXCHANGED, STAGE_INPUT
from exec.plan.schedule import microbatch_order, num_slots
from exec.plan.shards import NodeShard, Split
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Op,
    Receive,
    Send,
    Shape,
    Wait,
)  # fmt: skip
from exec.program.peers import At, Part, split_size
from exec.program.program import Role
from exec.workload import Workload, backward_kernels, forward_kernels

FORWARD_TAG, BACKWARD_TAG = 1, 2


@dataclass(frozen=True, slots=True)
class Writer:
    """What the functions below need to know of the role they write.

    ``rows`` are the samples of each microbatch; ``place`` is the first rank's among the trainers.
    """

    workload: Workload
    mesh: Mesh
    options: PlanOptions
    layout: Layout
    rows: tuple[int, ...]
    slots: int
    place: int = 0

    def compute(self, kernel: Kernel, layer: int, microbatch: int, k: int, m: int) -> Op:
        """Return the op that runs ``kernel`` from ``k`` inputs to ``m`` outputs of a sample."""
        shape = Shape(self.rows[microbatch], k, m)
        return self.workload.compute(kernel, layer, microbatch, shape)

    def compute_node(self, kernel: Kernel, shard: NodeShard, microbatch: int) -> Op:
        """Return the op that runs ``kernel`` on this rank's share of a node."""
        rows = self.layout.rows_at(shard.node, self.rows[microbatch])
        shape = self.workload.shape(shard.node, rows, shard.num_inputs, shard.num_outputs)
        return self.workload.compute(kernel, shard.node, microbatch, shape)

    def value(self, home: int, microbatch: int, grain: int = 1) -> Part:
        """Return where the value at ``home`` is, whole, split between channels of ``grain`` numbers."""
        return self._part(self.layout.buffer(home), home, microbatch, grain)

    def gradient(self, home: int, microbatch: int) -> Part:
        """Return where the gradient of the value at ``home`` is, whole."""
        return self._part(self.layout.gradient(home), home, microbatch, 1)

    def _part(self, name: str, home: int, microbatch: int, grain: int) -> Part:
        layout, network = self.layout, self.workload.network
        if layout.has_slots(name):
            name = f"{name}.{microbatch % self.slots}"
        rows = layout.rows_at(home, self.rows[microbatch])
        if home == EXCHANGED:  # samples first, so it is split between samples
            return Part(name, 0, layout.exchanged_width * rows, layout.exchanged_width)
        width = network.width(layout.input if home == STAGE_INPUT else home)
        return Part(name, 0, width * rows, max(grain * rows, 1))


def trainer_roles(
    workload: Workload,
    mesh: Mesh,
    options: PlanOptions,
    write: Callable[[Writer], Iterator[Op]],
    *,
    trainers: range | None = None,
    also_split: int = 0,
    is_local: bool = False,
    scratch: bool = False,
) -> Iterator[Role]:
    """Yield the roles of the ranks that train, with the ops that ``write`` yields for each.

    The batch is split over the dp coordinates ``trainers`` and then into microbatches, the first
    parts one sample larger where it does not divide; a part may be empty in an epoch's last
    batch. Gradients are divided by the *global* batch, or with ``is_local`` by the rank's own
    share. Ranks with other shares of ``also_split`` samples play other roles. With ``scratch`` a rank also has room for a second copy of its gradient.
    """
    trainers = range(mesh.dp) if trainers is None else trainers
    count = options.num_microbatches
    for stage in range(mesh.pp):
        slots = num_slots(options.schedule, stage, mesh.pp, count)
        for places in _replica_classes((workload.global_batch, also_split), len(trainers)):
            dp_span = range(trainers.start + places.start, trainers.start + places.stop)
            replica_rows = split_size(workload.global_batch, len(trainers), places.start)
            rows = tuple(split_size(replica_rows, count, i) for i in range(count))
            common = layout_of(
                workload.network, mesh, stage, 0, options.stages, is_exchanged=options.is_exchanged
            )
            for tp_span in tensor_classes(common, mesh.tp, rows):
                layout = layout_of(
                    workload.network,
                    mesh,
                    stage,
                    tp_span.start,
                    options.stages,
                    is_exchanged=options.is_exchanged,
                )
                size = layout.num_parameters
                flat = ["param", "grad"] + ["velocity"] * workload.has_momentum + ["scratch"] * scratch  # fmt: skip
                holds = [Part(name, 0, size) for name in flat]
                holds += [Part("stat", 0, layout.num_stats)] * (layout.num_stats > 0)
                held = held_elements(layout, workload, slots, rows[0]) + scratch * size
                writer = Writer(workload, mesh, options, layout, rows, slots, places.start)
                yield Role(
                    f"stage{stage}.dp{dp_span.start}.tp{tp_span.start}",
                    dp_span,
                    range(stage, stage + 1),
                    tp_span,
                    tuple(write(writer)),
                    slots,
                    max(1, replica_rows) if is_local else workload.global_batch,
                    tuple(holds),
                    held * workload.itemsize,
                )


def _replica_classes(totals: tuple[int, ...], trainers: int) -> list[range]:
    """Return the ranges of trainers that have equal shares of each of ``totals``."""
    borders = sorted({0, trainers, *(total % trainers for total in totals)})
    return [range(low, high) for low, high in pairwise(borders)]


def passes(stage: Writer, overlapped: Mapping[int, tuple[str, Part]] | None = None) -> Iterator[Op]:
    """Yield the forward and backward passes of all microbatches, in the schedule's order.

    ``overlapped`` says which gradient bucket is full, and all-reduced, after which layer.
    """
    layout, count = stage.layout, stage.options.num_microbatches
    for is_forward, microbatch in microbatch_order(
        stage.options.schedule, layout.stage, layout.num_stages, count
    ):
        if is_forward:
            yield from _forward(stage, microbatch)
        else:
            yield from _backward(stage, microbatch, overlapped or {} if microbatch == count - 1 else {})  # fmt: skip


def passed(stage: Writer) -> str:
    """Return the id of the last compute op of the backward pass."""
    last = next(node for node in stage.layout.nodes if _backward_kernels(stage, node))
    return backward_id(stage, last, stage.options.num_microbatches - 1)


def update(stage: Writer, part: Part | None = None, size: int | None = None) -> Compute:
    """Return the optimiser's step, on all that the rank holds or on ``size`` elements in ``part``."""
    size = stage.layout.num_parameters if size is None else size
    return update_op(stage.workload, stage.layout.shards[0].node, size, part)


def update_op(workload: Workload, layer: int, size: int, part: Part | None = None) -> Compute:
    """Return the optimiser's step on ``size`` parameters."""
    shape = Shape(0, int(workload.has_momentum), size)
    return replace(workload.compute(Kernel.UPDATE, layer, 0, shape), part=part)


def finish_sends(stage: Writer) -> Iterator[Op]:
    """Yield the waits for the last sends to the neighbouring stages."""
    count = stage.options.num_microbatches
    for microbatch in range(max(0, count - stage.slots), count):
        if not stage.layout.is_last:
            yield Wait(Lane.COMM, f"send.a.{microbatch}")
        if not stage.layout.is_first:
            yield Wait(Lane.COMM, f"send.g.{microbatch}")


def allreduce(stage: Writer, id: str, part: Part, axis: Axis) -> Op:
    """Return the all-reduce of ``part`` along ``axis``."""
    options, kind = stage.options, CollectiveKind.ALLREDUCE
    if options.algorithm is Algorithm.HIERARCHICAL:
        size = node_size(stage.mesh, axis, options.ranks_per_node)
        return Collective(id, kind, part, axis, options.algorithm, node_size=size)
    return Collective(id, kind, part, axis, options.algorithm)


def _forward(stage: Writer, microbatch: int) -> Iterator[Op]:
    layout, network = stage.layout, stage.workload.network
    first, last = layout.nodes[0], layout.nodes[-1]
    features = network.num_features if layout.is_first else 0
    classes = network.num_classes if layout.is_last else 0
    if layout.exchange is not None:  # other samples' images than labels
        rows = layout.rows_at(first, stage.rows[microbatch])
        yield stage.workload.compute(Kernel.LOAD, first, microbatch, Shape(rows, features, 0))
        yield stage.compute(Kernel.LOAD, last, microbatch, 0, classes)
    elif layout.is_first or layout.is_last:
        yield stage.compute(Kernel.LOAD, first, microbatch, features, classes)
    if not layout.is_first:
        id, part = f"recv.a.{microbatch}", stage.value(STAGE_INPUT, microbatch)
        yield Receive(id, part, At(Axis.PP, layout.stage - 1), FORWARD_TAG)
        yield Wait(Lane.COMPUTE, id)
    if not layout.is_last and microbatch >= stage.slots:
        yield Wait(Lane.COMPUTE, f"send.a.{microbatch - stage.slots}")
    done = ""
    for shard in layout.shards:
        done = yield from _forward_node(stage, shard, microbatch, done)
    if layout.is_last:
        yield stage.compute(Kernel.LOSS, last, microbatch, 0, network.num_classes)
    else:
        if not layout.shards[-1].gathers:
            yield Wait(Lane.COMM, done)
        part = stage.value(layout.final, microbatch)
        yield Send(f"send.a.{microbatch}", part, At(Axis.PP, layout.stage + 1), FORWARD_TAG)


def _forward_node(
    stage: Writer, shard: NodeShard, microbatch: int, done: str
) -> Generator[Op, None, str]:
    """Yield the ops of one node; return the id of the last of them, or ``done``, that before them."""
    layout, module = stage.layout, stage.workload.network.nodes[shard.node].module
    if shard.node == layout.exchange:
        yield _turn(stage, Kernel.TRANSPOSE, shard.node, microbatch)
        yield Wait(Lane.COMM, f"{Kernel.TRANSPOSE}.{shard.node}.{microbatch}")
        part, id = stage.value(EXCHANGED, microbatch), f"allgather.e.{microbatch}"
        yield Collective(id, CollectiveKind.ALLGATHER, part, Axis.TP, stage.options.algorithm)
        yield Wait(Lane.COMPUTE, id)
    for kernel in forward_kernels(module):
        op = stage.compute_node(kernel, shard, microbatch)
        yield op
        done = f"{kernel}.{shard.node}.{microbatch}"
        if kernel is Kernel.BATCHNORM_SUMS:
            yield from _shared_sums(stage, shard, microbatch, done)
    home = layout.places.home[shard.node]
    if shard.split is Split.ROW:
        id = f"allreduce.{layout.buffer(home)}.{microbatch}"
        yield Wait(Lane.COMM, done)
        yield allreduce(stage, id, stage.value(home, microbatch), Axis.TP)
        yield Wait(Lane.COMPUTE, id)
    if shard.gathers:
        id = f"allgather.{layout.buffer(home)}.{microbatch}"
        output = stage.value(home, microbatch, shard.grain)
        yield Wait(Lane.COMM, done)
        yield Collective(id, CollectiveKind.ALLGATHER, output, Axis.TP, stage.options.algorithm)
        if layout.is_last or shard is not layout.shards[-1]:
            yield Wait(Lane.COMPUTE, id)
        return id
    return done


def _turn(stage: Writer, kernel: Kernel, node: int, microbatch: int) -> Op:
    """Return the op that puts this rank's samples first, or its features first again."""
    rows = stage.layout.rows_at(node - 1, stage.rows[microbatch])
    shape = Shape(rows, 0, stage.layout.exchanged_width)
    return stage.workload.compute(kernel, node, microbatch, shape)


def _shared_sums(stage: Writer, shard: NodeShard, microbatch: int, done: str) -> Iterator[Op]:
    """Yield what replicas that normalise together say to each other: the sums of ``done``."""
    if not stage.options.sync_batchnorm:
        return
    part = Part(f"s{shard.node}.{microbatch % stage.slots}", 0, 2 * shard.num_outputs)
    for axis in replica_axes(stage, shard.node):
        id = f"allreduce.{done}.{axis}"
        yield Wait(Lane.COMM, done)
        yield allreduce(stage, id, part, axis)
        yield Wait(Lane.COMPUTE, id)


def replica_axes(stage: Writer, node: int) -> tuple[Axis, ...]:
    """Return along which axes ranks hold ``node`` alike, and train it on other samples."""
    is_before = stage.layout.exchange is not None and node < stage.layout.exchange
    return (Axis.DP,) * (stage.mesh.dp > 1) + (Axis.TP,) * is_before


def _backward(
    stage: Writer, microbatch: int, ready: Mapping[int, tuple[str, Part]]
) -> Iterator[Op]:
    layout = stage.layout
    if not layout.is_last:
        id, part = f"recv.g.{microbatch}", stage.gradient(layout.final, microbatch)
        yield Receive(id, part, At(Axis.PP, layout.stage + 1), BACKWARD_TAG)
        yield Wait(Lane.COMPUTE, id)
    if not layout.is_first and microbatch >= stage.slots:
        yield Wait(Lane.COMPUTE, f"send.g.{microbatch - stage.slots}")
    for shard in reversed(layout.shards):
        yield from _backward_node(stage, shard, microbatch)
        if shard.node in ready:
            yield Wait(Lane.COMM, backward_id(stage, shard.node, microbatch))
            yield from reduce_bucket(stage, *ready[shard.node])


def reduce_bucket(stage: Writer, id: str, part: Part) -> Iterator[Op]:
    """Yield the all-reduces of a gradient bucket, along all axes whose ranks hold it alike."""
    layout = stage.layout
    node = next(each for each in reversed(layout.nodes) if layout.offsets[each] <= part.start)
    axes = replica_axes(stage, node)
    for axis in axes[:-1]:
        yield allreduce(stage, f"{id}.{axis}", part, axis)
    for axis in axes[-1:]:
        yield allreduce(stage, id, part, axis)


def _backward_node(stage: Writer, shard: NodeShard, microbatch: int) -> Iterator[Op]:
    """Yield the ops of one node, and what is to be said of the gradients that it completes."""
    layout = stage.layout
    for kernel in _backward_kernels(stage, shard.node):
        yield stage.compute_node(kernel, shard, microbatch)
        if kernel is Kernel.BATCHNORM_BACKWARD_SUMS:
            yield from _shared_sums(stage, shard, microbatch, f"{kernel}.{shard.node}.{microbatch}")
    if shard.node == layout.exchange:
        part, id = stage.gradient(EXCHANGED, microbatch), f"reduce_scatter.e.{microbatch}"
        yield Wait(Lane.COMM, backward_id(stage, shard.node, microbatch))
        yield Collective(id, CollectiveKind.REDUCE_SCATTER, part, Axis.TP)
        yield Wait(Lane.COMPUTE, id)
        yield _turn(stage, Kernel.TRANSPOSE_BACKWARD, shard.node, microbatch)
    for home in layout.places.completed.get(shard.node, ()):
        is_sent, is_summed = home == STAGE_INPUT, layout.sums_gradient(home)
        if is_sent or is_summed:
            yield Wait(Lane.COMM, backward_id(stage, shard.node, microbatch))
        if is_summed:
            id = f"allreduce.g{'x' if is_sent else home}.{microbatch}"
            yield allreduce(stage, id, stage.gradient(home, microbatch), Axis.TP)
            if not is_sent:
                yield Wait(Lane.COMPUTE, id)
        if is_sent:
            part = stage.gradient(home, microbatch)
            yield Send(f"send.g.{microbatch}", part, At(Axis.PP, layout.stage - 1), BACKWARD_TAG)


def _backward_kernels(stage: Writer, node: int) -> tuple[Kernel, ...]:
    module = stage.workload.network.nodes[node].module
    return backward_kernels(module, has_grad_input=stage.layout.learns_before(node))


def backward_id(stage: Writer, node: int, microbatch: int) -> str:
    """Return the id of the op after which the gradients of ``node`` are whole."""
    return f"{_backward_kernels(stage, node)[-1]}.{node}.{microbatch}"
