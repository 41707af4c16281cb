"""The ops of a training step on one rank, but for what replicas say to each other.

A stage's forward and backward are written here, for any layout; the order of microbatches comes
from the schedule. Every strategy starts from these and adds its messages.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from exec.plan.layout import LayerShard, Layout, Split, held_elements, layout_of, tensor_classes
from exec.plan.nodes import node_size
from exec.plan.options import PlanOptions
from exec.plan.schedule import microbatch_order, num_slots
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
from exec.workload import Workload

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

    def units(self, layer: int) -> int:
        """Return how many units ``layer`` has."""
        return self.workload.widths[layer + 1]

    def compute(self, kernel: Kernel, layer: int, microbatch: int, k: int, m: int) -> Op:
        """Return the op that runs ``kernel`` from ``k`` inputs to ``m`` outputs."""
        shape = Shape(self.rows[microbatch], k, m)
        return self.workload.compute(kernel, layer, microbatch, shape)

    def part(self, name: str, microbatch: int, width: int) -> Part:
        """Return the whole of a ``width`` x rows buffer, split between units, never inside one."""
        rows = self.rows[microbatch]
        return Part(f"{name}.{microbatch % self.slots}", 0, width * rows, max(rows, 1))

    def gradient(self, layer: int, microbatch: int) -> Part:
        """Return where the gradient of the output of ``layer`` is."""
        shards, inner = self.layout.shards, f"g{layer}"
        if self.layout.is_last and layer == shards[-1].layer:
            return self.part(f"a{layer}", microbatch, self.units(layer))
        if shards[0].layer <= layer < shards[-1].layer:
            rows = self.rows[microbatch]
            return Part(inner, 0, self.units(layer) * rows, max(rows, 1))
        return self.part(inner, microbatch, self.units(layer))


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
            for tp_span in tensor_classes(workload.widths, mesh, stage):
                layout = layout_of(workload.widths, mesh, stage, tp_span.start)
                size = layout.num_parameters
                flat = ["param", "grad"] + ["velocity"] * workload.has_momentum + ["scratch"] * scratch  # fmt: skip
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
                    tuple(Part(name, 0, size) for name in flat),
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
    return backward_id(stage.layout.shards[0].layer, stage.options.num_microbatches - 1)


def update(stage: Writer, part: Part | None = None, size: int | None = None) -> Compute:
    """Return the optimiser's step, on all that the rank holds or on ``size`` elements in ``part``."""
    size = stage.layout.num_parameters if size is None else size
    return update_op(stage.workload, stage.layout.shards[0].layer, size, part)


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
    layout, widths = stage.layout, stage.workload.widths
    first, final = layout.shards[0].layer, layout.shards[-1].layer
    if layout.is_first or layout.is_last:
        features = widths[0] if layout.is_first else 0
        classes = widths[-1] if layout.is_last else 0
        yield stage.compute(Kernel.LOAD, first, microbatch, features, classes)
    if not layout.is_first:
        id, part = f"recv.a.{microbatch}", stage.part("x", microbatch, widths[first])
        yield Receive(id, part, At(Axis.PP, layout.stage - 1), FORWARD_TAG)
        yield Wait(Lane.COMPUTE, id)
    if not layout.is_last and microbatch >= stage.slots:
        yield Wait(Lane.COMPUTE, f"send.a.{microbatch - stage.slots}")
    done = ""
    for shard in layout.shards:
        done = yield from _forward_layer(stage, shard, microbatch)
    if layout.is_last:
        if done.startswith("allgather"):
            yield Wait(Lane.COMPUTE, done)
        yield stage.compute(Kernel.LOSS, final, microbatch, 0, widths[-1])
    else:
        if not done.startswith("allgather"):
            yield Wait(Lane.COMM, done)
        part = stage.part(f"a{final}", microbatch, stage.units(final))
        yield Send(f"send.a.{microbatch}", part, At(Axis.PP, layout.stage + 1), FORWARD_TAG)


def _forward_layer(stage: Writer, shard: LayerShard, microbatch: int) -> Generator[Op, None, str]:
    """Yield the ops of one layer; return the id of the op after which its output is there."""
    layer, units = shard.layer, shard.num_units
    done = f"{Kernel.LINEAR}.{layer}.{microbatch}"
    output = stage.part(f"a{layer}", microbatch, stage.units(layer))
    yield stage.compute(Kernel.LINEAR, layer, microbatch, shard.num_inputs, units)
    if shard.split is Split.ROW:
        id = f"allreduce.a{layer}.{microbatch}"
        yield Wait(Lane.COMM, done)
        yield allreduce(stage, id, output, Axis.TP)
        yield Wait(Lane.COMPUTE, id)
    if layer < stage.workload.num_layers - 1:
        yield stage.compute(Kernel.SIGMOID, layer, microbatch, 0, units)
        done = f"{Kernel.SIGMOID}.{layer}.{microbatch}"
    if shard.split is Split.COLUMN_GATHER:
        id = f"allgather.a{layer}.{microbatch}"
        yield Wait(Lane.COMM, done)
        yield Collective(id, CollectiveKind.ALLGATHER, output, Axis.TP, stage.options.algorithm)
        return id
    return done


def _backward(
    stage: Writer, microbatch: int, ready: Mapping[int, tuple[str, Part]]
) -> Iterator[Op]:
    layout = stage.layout
    first, final = layout.shards[0].layer, layout.shards[-1].layer
    if not layout.is_last:
        id, part = f"recv.g.{microbatch}", stage.gradient(final, microbatch)
        yield Receive(id, part, At(Axis.PP, layout.stage + 1), BACKWARD_TAG)
        yield Wait(Lane.COMPUTE, id)
    if not layout.is_first and microbatch >= stage.slots:
        yield Wait(Lane.COMPUTE, f"send.g.{microbatch - stage.slots}")
    for shard in reversed(layout.shards):
        yield from _backward_layer(stage, shard, microbatch)
        if shard.layer == first and not layout.is_first:
            if shard.split not in (Split.COLUMN, Split.COLUMN_GATHER):
                yield Wait(Lane.COMM, backward_id(first, microbatch))
            part = stage.gradient(first - 1, microbatch)
            yield Send(f"send.g.{microbatch}", part, At(Axis.PP, layout.stage - 1), BACKWARD_TAG)
        if shard.layer in ready:
            id, part = ready[shard.layer]
            yield Wait(Lane.COMM, backward_id(shard.layer, microbatch))
            yield allreduce(stage, id, part, Axis.DP)


def _backward_layer(stage: Writer, shard: LayerShard, microbatch: int) -> Iterator[Op]:
    layer = shard.layer
    if layer < stage.workload.num_layers - 1:
        yield stage.compute(Kernel.SIGMOID_BACKWARD, layer, microbatch, 0, shard.num_units)
    kernel = Kernel.LINEAR_BACKWARD if layer else Kernel.LINEAR_BACKWARD_FIRST
    yield stage.compute(kernel, layer, microbatch, shard.num_inputs, shard.num_units)
    if layer and shard.split in (Split.COLUMN, Split.COLUMN_GATHER):
        id = f"allreduce.g{layer - 1}.{microbatch}"
        yield Wait(Lane.COMM, backward_id(layer, microbatch))
        yield allreduce(stage, id, stage.gradient(layer - 1, microbatch), Axis.TP)
        if shard is not stage.layout.shards[0]:
            yield Wait(Lane.COMPUTE, id)


def backward_id(layer: int, microbatch: int) -> str:
    """Return the id of the op after which the gradient of ``layer`` is whole."""
    kernel = Kernel.LINEAR_BACKWARD if layer else Kernel.LINEAR_BACKWARD_FIRST
    return f"{kernel}.{layer}.{microbatch}"
