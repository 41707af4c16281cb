"""The forward and backward passes of a stage, for any layout, in the schedule's order."""

from collections.abc import Generator, Iterator, Mapping

from exec.network.network import INPUT
from exec.plan.places import EXCHANGED, STAGE_INPUT
from exec.plan.schedule import microbatch_order
from exec.plan.shards import NodeShard, Split
from exec.plan.writer import Writer, allreduce, reduce_bucket, replica_axes
from exec.program.mesh import Axis
from exec.program.ops import (
    Collective,
    CollectiveKind,
    Kernel,
    Lane,
    Op,
    Receive,
    Send,
    Shape,
    Wait,
)
from exec.program.peers import At, Part
from exec.workload import backward_kernels, forward_kernels

FORWARD_TAG, BACKWARD_TAG = 1, 2


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


def _forward(stage: Writer, microbatch: int) -> Iterator[Op]:
    layout, network = stage.layout, stage.workload.network
    first, last = layout.nodes[0], layout.nodes[-1]
    features = network.num_features if layout.is_first else 0
    classes = network.num_classes if layout.is_last else 0
    is_turned = layout.is_first and not layout.has_rows
    pixels = network.pixels(INPUT) if is_turned else 1
    if layout.exchange is not None:  # other samples' images than labels
        rows = layout.rows_at(first, stage.rows[microbatch])
        shape = Shape(rows, features, 0, q=pixels)
        yield stage.workload.compute(Kernel.LOAD, first, microbatch, shape)
        yield stage.compute(Kernel.LOAD, last, microbatch, 0, classes)
    elif layout.is_first or layout.is_last:
        shape = Shape(stage.rows[microbatch], features, classes, q=pixels)
        yield stage.workload.compute(Kernel.LOAD, first, microbatch, shape)
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
