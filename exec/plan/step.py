"""The training step: one program for any ``dp x pp x tp`` mesh.

Every strategy is a mesh: ``serial`` is 1x1x1, ``data`` px1x1, ``pipeline`` 1xpx1, ``tensor``
1x1xp, and ``hybrid`` whatever its factors. A stage's forward and backward are written here; the
order of microbatches comes from the schedule, the split of layers from the layout.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from exec.plan.layout import LayerShard, Layout, Split, held_elements, layout_of, tensor_classes
from exec.plan.nodes import node_size
from exec.plan.schedule import Schedule, microbatch_order, num_slots
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Algorithm,
    Collective,
    CollectiveKind,
    Kernel,
    Lane,
    Op,
    Receive,
    Send,
    Shape,
    Wait,
)  # fmt: skip
from exec.program.peers import At, Part, split_size
from exec.program.program import Program, Role
from exec.workload import Workload

FORWARD_TAG, BACKWARD_TAG = 1, 2


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a mesh is used.

    Gradients are all-reduced in buckets of whole layers of at least ``bucket_nbytes``; with
    ``overlap`` each as soon as the backward pass has filled it, else all at the end. A
    hierarchical all-reduce takes ``ranks_per_node`` ranks in a row for those of one node.
    """

    num_microbatches: int = 1
    schedule: Schedule = Schedule.ONE_F_ONE_B
    bucket_nbytes: int = 4 << 20
    overlap: bool = False
    algorithm: Algorithm = Algorithm.LIBRARY
    ranks_per_node: int = 1


@dataclass(frozen=True, slots=True)
class _Stage:
    """What the functions below need to know of the role they write."""

    workload: Workload
    mesh: Mesh
    options: PlanOptions
    layout: Layout
    rows: tuple[int, ...]  # samples of each microbatch
    slots: int

    def units(self, layer: int) -> int:
        return self.workload.widths[layer + 1]

    def compute(self, kernel: Kernel, layer: int, microbatch: int, k: int, m: int) -> Op:
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


def plan_step(workload: Workload, mesh: Mesh, options: PlanOptions = PlanOptions()) -> Program:
    """Return the program of one training step of ``workload`` on ``mesh``.

    The batch is split over the replicas and then into microbatches, the first parts one sample
    larger where it does not divide; a part may be empty in an epoch's last batch. Each gradient
    is scaled by one over the *global* batch, so the all-reduced sum is the serial gradient.
    """
    roles = []
    for stage in range(mesh.pp):
        slots = num_slots(options.schedule, stage, mesh.pp, options.num_microbatches)
        for dp_span in _replica_classes(workload.global_batch, mesh.dp):
            replica_rows = split_size(workload.global_batch, mesh.dp, dp_span.start)
            count = options.num_microbatches
            rows = tuple(split_size(replica_rows, count, i) for i in range(count))
            for tp_span in tensor_classes(workload.widths, mesh, stage):
                layout = layout_of(workload.widths, mesh, stage, tp_span.start)
                writer = _Stage(workload, mesh, options, layout, rows, slots)
                name = f"stage{stage}.dp{dp_span.start}.tp{tp_span.start}"
                pp_span = range(stage, stage + 1)
                held = held_elements(layout, workload, slots, rows[0]) * workload.itemsize
                ops = tuple(_ops(writer))
                roles.append(Role(name, dp_span, pp_span, tp_span, ops, slots, held))
    return Program(mesh, workload.itemsize, tuple(roles))


def _replica_classes(batch: int, dp: int) -> list[range]:
    larger = batch % dp
    return [span for span in (range(larger), range(larger, dp)) if len(span)]


def _ops(stage: _Stage) -> Iterator[Op]:
    options, layout = stage.options, stage.layout
    last = options.num_microbatches - 1
    order = microbatch_order(
        options.schedule, layout.stage, layout.num_stages, options.num_microbatches
    )
    for is_forward, microbatch in order:
        yield from _forward(stage, microbatch) if is_forward else _backward(stage, microbatch, last)
    synchronised = [] if stage.mesh.dp == 1 else [id for id, _, _ in buckets(stage)]
    if not options.overlap:
        for id, _, part in buckets(stage) if stage.mesh.dp > 1 else ():
            if id == "bucket0":
                yield Wait(Lane.COMM, _backward_id(layout.shards[0].layer, last))
            yield _allreduce(stage, id, part, Axis.DP)
    for id in synchronised:
        yield Wait(Lane.COMPUTE, id)
    momentum = int(stage.workload.has_momentum)
    update = Shape(0, momentum, layout.num_parameters)
    yield stage.workload.compute(Kernel.UPDATE, layout.shards[0].layer, 0, update)
    for microbatch in range(max(0, last + 1 - stage.slots), last + 1):
        if not layout.is_last:
            yield Wait(Lane.COMM, f"send.a.{microbatch}")
        if not layout.is_first:
            yield Wait(Lane.COMM, f"send.g.{microbatch}")


def buckets(stage: _Stage) -> list[tuple[str, int, Part]]:
    """Return ``(id, lowest layer, part)`` of each gradient bucket, the last layers first."""
    found: list[tuple[str, int, Part]] = []
    stop = start = stage.layout.num_parameters
    for shard in reversed(stage.layout.shards):
        start -= shard.num_parameters
        is_full = (stop - start) * stage.workload.itemsize >= stage.options.bucket_nbytes
        if is_full or shard is stage.layout.shards[0]:
            found.append((f"bucket{len(found)}", shard.layer, Part("grad", start, stop)))
            stop = start
    return found


def _forward(stage: _Stage, microbatch: int) -> Iterator[Op]:
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


def _forward_layer(stage: _Stage, shard: LayerShard, microbatch: int) -> Generator[Op, None, str]:
    """Yield the ops of one layer; return the id of the op after which its output is there."""
    layer, units = shard.layer, shard.num_units
    done = f"{Kernel.LINEAR}.{layer}.{microbatch}"
    output = stage.part(f"a{layer}", microbatch, stage.units(layer))
    yield stage.compute(Kernel.LINEAR, layer, microbatch, shard.num_inputs, units)
    if shard.split is Split.ROW:
        id = f"allreduce.a{layer}.{microbatch}"
        yield Wait(Lane.COMM, done)
        yield _allreduce(stage, id, output, Axis.TP)
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


def _backward(stage: _Stage, microbatch: int, last: int) -> Iterator[Op]:
    layout, options = stage.layout, stage.options
    first, final = layout.shards[0].layer, layout.shards[-1].layer
    if not layout.is_last:
        id, part = f"recv.g.{microbatch}", stage.gradient(final, microbatch)
        yield Receive(id, part, At(Axis.PP, layout.stage + 1), BACKWARD_TAG)
        yield Wait(Lane.COMPUTE, id)
    if not layout.is_first and microbatch >= stage.slots:
        yield Wait(Lane.COMPUTE, f"send.g.{microbatch - stage.slots}")
    ready = {}
    if options.overlap and stage.mesh.dp > 1 and microbatch == last:
        ready = {lowest: (id, part) for id, lowest, part in buckets(stage)}
    for shard in reversed(layout.shards):
        yield from _backward_layer(stage, shard, microbatch)
        if shard.layer == first and not layout.is_first:
            if shard.split not in (Split.COLUMN, Split.COLUMN_GATHER):
                yield Wait(Lane.COMM, _backward_id(first, microbatch))
            part = stage.gradient(first - 1, microbatch)
            yield Send(f"send.g.{microbatch}", part, At(Axis.PP, layout.stage - 1), BACKWARD_TAG)
        if shard.layer in ready:
            id, part = ready[shard.layer]
            yield Wait(Lane.COMM, _backward_id(shard.layer, microbatch))
            yield _allreduce(stage, id, part, Axis.DP)


def _backward_layer(stage: _Stage, shard: LayerShard, microbatch: int) -> Iterator[Op]:
    layer = shard.layer
    if layer < stage.workload.num_layers - 1:
        yield stage.compute(Kernel.SIGMOID_BACKWARD, layer, microbatch, 0, shard.num_units)
    kernel = Kernel.LINEAR_BACKWARD if layer else Kernel.LINEAR_BACKWARD_FIRST
    yield stage.compute(kernel, layer, microbatch, shard.num_inputs, shard.num_units)
    if layer and shard.split in (Split.COLUMN, Split.COLUMN_GATHER):
        id = f"allreduce.g{layer - 1}.{microbatch}"
        yield Wait(Lane.COMM, _backward_id(layer, microbatch))
        yield _allreduce(stage, id, stage.gradient(layer - 1, microbatch), Axis.TP)
        if shard is not stage.layout.shards[0]:
            yield Wait(Lane.COMPUTE, id)


def _backward_id(layer: int, microbatch: int) -> str:
    kernel = Kernel.LINEAR_BACKWARD if layer else Kernel.LINEAR_BACKWARD_FIRST
    return f"{kernel}.{layer}.{microbatch}"


def _allreduce(stage: _Stage, id: str, part: Part, axis: Axis) -> Op:
    options, kind = stage.options, CollectiveKind.ALLREDUCE
    if options.algorithm is Algorithm.HIERARCHICAL:
        size = node_size(stage.mesh, axis, options.ranks_per_node)
        return Collective(id, kind, part, axis, options.algorithm, node_size=size)
    return Collective(id, kind, part, axis, options.algorithm)
