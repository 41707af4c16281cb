"""The writer of a role: what every strategy needs to know of the ranks whose ops it writes.

:mod:`exec.plan.passes` has the passes of a step; every strategy starts from those and adds its
messages.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from exec.plan.layout import Layout, held_elements, layout_of, tensor_classes
from exec.plan.nodes import node_size
from exec.plan.options import PlanOptions
from exec.plan.places import EXCHANGED, STAGE_INPUT
from exec.plan.schedule import num_slots
from exec.plan.shards import NodeShard
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Op,
    Shape,
    Wait,
)  # fmt: skip
from exec.program.peers import Part, split_size
from exec.program.program import Role
from exec.workload import Workload


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
        return self.workload.compute_node(
            kernel, shard.node, microbatch, rows, shard.num_inputs, shard.num_outputs
        )

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
    for writer, dp_span, tp_span, samples in _writers(
        workload, mesh, options, trainers, also_split
    ):
        stage, layout, slots = writer.layout.stage, writer.layout, writer.slots
        size = layout.num_parameters
        flat = ["param", "grad"] + ["velocity"] * workload.has_momentum + ["scratch"] * scratch
        holds = [Part(name, 0, size) for name in flat]
        holds += [Part("stat", 0, layout.num_stats)] * (layout.num_stats > 0)
        yield Role(
            f"stage{stage}.dp{dp_span.start}.tp{tp_span.start}",
            dp_span,
            range(stage, stage + 1),
            tp_span,
            tuple(write(writer)),
            slots,
            max(1, samples) if is_local else workload.global_batch,
            tuple(holds),
            (_held(writer) + scratch * size) * workload.itemsize,
        )


def most_nbytes(workload: Workload, mesh: Mesh, options: PlanOptions) -> int:
    """Return what the rank holds that holds most, where all train; it takes no ops to be written."""
    held = (_held(writer) for writer, *_ in _writers(workload, mesh, options))
    return max(held) * workload.itemsize


def _held(writer: Writer) -> int:
    return held_elements(writer.layout, writer.workload, writer.slots, writer.rows[0])


def _writers(
    workload: Workload, mesh: Mesh, options: PlanOptions, trainers: range | None = None,
    also_split: int = 0,
) -> Iterator[tuple[Writer, range, range, int]]:  # fmt: skip
    """Yield the writer of each role, its dp and tp coordinates and how many samples a rank has."""
    trainers = range(mesh.dp) if trainers is None else trainers
    count = options.num_microbatches
    for stage in range(mesh.pp):
        slots = num_slots(options.schedule, stage, mesh.pp, count)
        for places in _replica_classes((workload.global_batch, also_split), len(trainers)):
            dp_span = range(trainers.start + places.start, trainers.start + places.stop)
            replica_rows = split_size(workload.global_batch, len(trainers), places.start)
            rows = tuple(split_size(replica_rows, count, i) for i in range(count))
            common = layout_of(workload.network, mesh, stage, 0, options)
            for tp_span in tensor_classes(common, mesh.tp, rows):
                layout = layout_of(workload.network, mesh, stage, tp_span.start, options)
                writer = Writer(workload, mesh, options, layout, rows, slots, places.start)
                yield writer, dp_span, tp_span, replica_rows


def _replica_classes(totals: tuple[int, ...], trainers: int) -> list[range]:
    """Return the ranges of trainers that have equal shares of each of ``totals``."""
    borders = sorted({0, trainers, *(total % trainers for total in totals)})
    return [range(low, high) for low, high in pairwise(borders)]


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
    if (
        options.algorithm is Algorithm.SHARED_WINDOW
    ):  # of gradients only: what else there is to add is small
        return Collective(id, kind, part, axis)
    return Collective(id, kind, part, axis, options.algorithm)


def replica_axes(stage: Writer, node: int) -> tuple[Axis, ...]:
    """Return along which axes ranks hold ``node`` alike, and train it on other samples."""
    is_before = stage.layout.exchange is not None and node < stage.layout.exchange
    return (Axis.DP,) * (stage.mesh.dp > 1) + (Axis.TP,) * is_before


def reduce_bucket(stage: Writer, id: str, part: Part) -> Iterator[Op]:
    """Yield the all-reduces of a gradient bucket, along all axes whose ranks hold it alike."""
    layout = stage.layout
    node = next(each for each in reversed(layout.nodes) if layout.offsets[each] <= part.start)
    axes = replica_axes(stage, node)
    for axis in axes[:-1]:
        yield allreduce(stage, f"{id}.{axis}", part, axis)
    for axis in axes[-1:]:
        yield allreduce(stage, id, part, axis)
