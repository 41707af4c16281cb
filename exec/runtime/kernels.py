"""Kernels: each compute op of a program bound to the module and the arrays it works on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from exec.nn.backend import SMALL_PRODUCT, Array, Indices, xp
from exec.nn.modules import Linear, Sigmoid, SoftmaxCrossEntropy
from exec.nn.optimiser import Sgd
from exec.plan.layout import LayerShard, Split
from exec.program.ops import Compute, Kernel
from exec.runtime.buffers import Buffers

Call = Callable[[], object]


@dataclass(slots=True)
class Feed:
    """Where batches come from: the samples, and which of them the coming step takes.

    ``images`` is (samples, features), ``labels`` (samples,).
    """

    images: Array
    labels: Indices
    indices: Indices


@dataclass(slots=True)
class KernelBinder:
    """Wires the modules of one step; ``sample_starts`` says where each microbatch begins.

    Gradients are divided by the ``samples`` of the rank's role.
    """

    buffers: Buffers
    feed: Feed
    learning_rate: float
    momentum: float
    samples: int
    sample_starts: tuple[int, ...]
    losses: list[SoftmaxCrossEntropy] = field(default_factory=list)
    _linears: dict[tuple[int, int], Linear] = field(default_factory=dict)
    _sigmoids: dict[tuple[int, int], Sigmoid] = field(default_factory=dict)
    _scratch: dict[tuple[int, ...], Array] = field(default_factory=dict)

    def bind(self, op: Compute) -> Call:
        """Return a call without arguments that does ``op``."""
        match op.kernel:
            case Kernel.LOAD:
                return self._load(op)
            case Kernel.LINEAR:
                return self._linear(op)
            case Kernel.SIGMOID:
                return self._sigmoid(op)
            case Kernel.LOSS:
                return self._loss(op)
            case Kernel.LINEAR_BACKWARD | Kernel.LINEAR_BACKWARD_FIRST:
                module = self._linears[op.layer, op.microbatch]
                gradient = self._gradient(self._shard(op.layer), op)
                return partial(module.backward, gradient)
            case Kernel.SIGMOID_BACKWARD:
                sigmoid = self._sigmoids[op.layer, op.microbatch]
                gradient = self._gradient(self._shard(op.layer), op)
                return partial(sigmoid.backward, gradient)
            case Kernel.UPDATE:
                return self._update(op).update
            case Kernel.ACCUMULATE:
                raise ValueError("accumulate must be on the communication lane")

    def _update(self, op: Compute) -> Sgd:
        buffers = self.buffers
        velocity = buffers.velocity
        if op.part is None:
            flat = buffers.parameters, buffers.arrays["grad"], velocity
        else:
            gradient, moved = (buffers.part(replace(op.part, buffer=name)) if name in buffers.arrays else None
                               for name in ("grad", "velocity"))  # fmt: skip
            assert gradient is not None
            flat = buffers.part(op.part), gradient, moved
        return Sgd(*flat, self.learning_rate, self.momentum)

    def _load(self, op: Compute) -> Call:
        feed, n = self.feed, op.shape.n
        start = self.sample_starts[op.microbatch]
        stop, features, classes = start + n, op.shape.k, op.shape.m
        slot = op.microbatch % self.buffers.role.slots
        images = self.buffers.matrix(f"x.{slot}", n, features) if features else None
        if not classes:
            return lambda: feed.images.take(
                feed.indices[start:stop], axis=0, out=images, mode="clip"
            )
        targets = self.buffers.matrix(f"t.{slot}", classes, n)
        flat, scale = targets.reshape(-1), targets.dtype.type(1.0 / self.samples)
        rows, columns, places = feed.labels * n, xp.arange(n), xp.empty(n, feed.labels.dtype)

        def load() -> None:
            picked = feed.indices[start:stop]
            if images is not None:
                feed.images.take(picked, axis=0, out=images, mode="clip")
            rows.take(picked, out=places, mode="clip")
            xp.add(places, columns, out=places)
            targets.fill(0.0)
            flat[places] = scale

        return load

    def _linear(self, op: Compute) -> Call:
        buffers, layout, shard = self.buffers, self.buffers.layout, self._shard(op.layer)
        n, slot, layer = op.shape.n, op.microbatch % self.buffers.role.slots, op.layer
        has_grad_input = layer > 0
        adds = op.microbatch > 0
        grad_input = None
        if has_grad_input:
            name = f"g{layer - 1}" + (f".{slot}" if shard is layout.shards[0] else "")
            grad_input = buffers.matrix(name, shard.num_inputs, n)
        grad_weight = buffers.weight(buffers.arrays["grad"], shard)
        is_small = n * shard.num_inputs * shard.num_units <= SMALL_PRODUCT
        copied = layer == 0 and is_small
        module = Linear(
            weight=buffers.weight(buffers.parameters, shard),
            bias=buffers.bias(buffers.parameters, shard),
            grad_weight=grad_weight,
            grad_bias=buffers.bias(buffers.arrays["grad"], shard),
            output=self._output(shard, op),
            grad_input=grad_input,
            scratch=self._shared_scratch(grad_weight.shape) if adds else None,
            adds=adds,
            row_major=self._shared_scratch((shard.num_inputs, n)) if copied else None,
        )
        self._linears[layer, op.microbatch] = module
        if layer == 0:
            source = buffers.matrix(f"x.{slot}", n, shard.num_inputs).T
        elif shard is layout.shards[0]:
            source = buffers.matrix(f"x.{slot}", shard.num_inputs, n)
        else:
            before = self._shard(layer - 1)
            source = self._output(before, op)
        return partial(module.forward, source)

    def _sigmoid(self, op: Compute) -> Call:
        shard = self._shard(op.layer)
        output = self._output(shard, op)
        module = Sigmoid(self._shared_scratch(output.shape))
        self._sigmoids[op.layer, op.microbatch] = module
        return partial(module.forward, output)

    def _loss(self, op: Compute) -> Call:
        n, classes, slot = op.shape.n, op.shape.m, op.microbatch % self.buffers.role.slots
        targets = self.buffers.matrix(f"t.{slot}", classes, n)
        module = SoftmaxCrossEntropy(1.0 / self.samples, targets)
        self.losses.append(module)
        logits = self.buffers.matrix(f"a{op.layer}.{slot}", classes, n)
        return partial(module.forward_backward, logits)

    def _shard(self, layer: int) -> LayerShard:
        shards = self.buffers.layout.shards
        return shards[layer - shards[0].layer]

    def _output(self, shard: LayerShard, op: Compute) -> Array:
        """Return the rows of ``a<layer>`` that this rank computes."""
        name = f"a{shard.layer}.{op.microbatch % self.buffers.role.slots}"
        return self._own_rows(name, shard, op.shape.n)

    def _gradient(self, shard: LayerShard, op: Compute) -> Array:
        """Return the rows of the gradient of the output that this rank computes with."""
        slot = op.microbatch % self.buffers.role.slots
        layout = self.buffers.layout
        if shard is not layout.shards[-1]:
            name = f"g{shard.layer}"
        else:
            name = f"a{shard.layer}.{slot}" if layout.is_last else f"g{shard.layer}.{slot}"
        return self._own_rows(name, shard, op.shape.n)

    def _own_rows(self, name: str, shard: LayerShard, n: int) -> Array:
        if shard.split is not Split.COLUMN_GATHER:
            return self.buffers.matrix(name, shard.num_units, n)
        units = self.buffers.workload.widths[shard.layer + 1]
        return self.buffers.matrix(name, units, n)[shard.out_start : shard.out_stop]

    def _shared_scratch(self, shape: tuple[int, ...]) -> Array:
        """Return room that several modules use, each only inside one call."""
        if shape not in self._scratch:
            self._scratch[shape] = xp.empty(shape, self.buffers.parameters.dtype)
        return self._scratch[shape]
