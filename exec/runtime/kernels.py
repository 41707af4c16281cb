"""Kernels: each compute op of a program bound to the module and the arrays it works on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from exec.network import modules as described
from exec.network.network import pooling_window
from exec.network.scratch import SMALL_PRODUCT
from exec.nn.activation import ReLU
from exec.nn.addition import Add
from exec.nn.backend import Array, Indices, xp
from exec.nn.convolution import Conv2d
from exec.nn.loss import SoftmaxCrossEntropy
from exec.nn.modules import Linear, Sigmoid
from exec.nn.normalisation import BatchNorm2d
from exec.nn.optimiser import Sgd
from exec.nn.pooling import AvgPool, MaxPool
from exec.nn.transposed import copy_transposed
from exec.program.ops import Compute, Kernel
from exec.runtime.buffers import Buffers
from exec.runtime.pieces import pieces, stat_pieces
from exec.runtime.views import Views, slotted
from exec.workload import forward_kernels

Call = Callable[[], object]
_Module = Any  # one of the modules above; each is called by the kernels it has


@dataclass(slots=True)
class Feed:
    """Where batches come from: the samples, and which of them the coming step takes.

    ``images`` is (samples, features), ``labels`` (samples,).
    """

    images: Array
    labels: Indices
    indices: Indices
    _order: Indices = field(init=False)

    def __post_init__(self) -> None:
        self._order = self.indices

    def begin(self, order: Indices) -> None:
        """Let the steps to come take samples in ``order``."""
        self._order = order

    def take(self, start: int, stop: int) -> None:
        """Let the next step take those from place ``start`` of the order to ``stop``."""
        self.indices = self._order[start:stop]


@dataclass(slots=True)
class KernelBinder:
    """Wires the modules of one step; ``sample_starts`` says where each microbatch begins.

    ``image_starts`` are other places where a rank takes other samples' images than labels.
    Gradients are divided by the ``samples`` of the rank's role. ``shared_rows``, if given, are the
    samples of each microbatch of all replicas, which normalise by their common statistics.
    """

    buffers: Buffers
    feed: Feed
    learning_rate: float
    momentum: float
    samples: int
    sample_starts: tuple[int, ...]
    image_starts: tuple[int, ...]
    shared_rows: tuple[int, ...] = ()
    losses: list[SoftmaxCrossEntropy] = field(default_factory=list)
    _modules: dict[tuple[int, int], _Module] = field(default_factory=dict)

    def bind(self, op: Compute) -> Call:
        """Return a call without arguments that does ``op``."""
        match op.kernel:
            case Kernel.LOAD:
                return self._load(op)
            case Kernel.LOSS:
                return self._loss(op)
            case Kernel.UPDATE:
                return self._update(op).update
            case Kernel.TRANSPOSE | Kernel.TRANSPOSE_BACKWARD:
                return self._turn(op)
            case Kernel.ACCUMULATE:
                raise ValueError("accumulate must be on the communication lane")
            case _:
                return self._node(op)

    def _update(self, op: Compute) -> Sgd:
        buffers = self.buffers
        if op.part is None:
            velocity = buffers.flat("velocity") if buffers.has_velocity else None
            flat = buffers.flat("param"), buffers.flat("grad"), velocity
        else:
            gradient, moved = (buffers.part(replace(op.part, buffer=name)) if name in buffers.arrays else None
                               for name in ("grad", "velocity"))  # fmt: skip
            assert gradient is not None
            flat = buffers.part(op.part), gradient, moved
        return Sgd(*flat, self.learning_rate, self.momentum)

    def _load(self, op: Compute) -> Call:
        feed, n = self.feed, op.shape.n
        features, classes = op.shape.k, op.shape.m
        start = (self.image_starts if features else self.sample_starts)[op.microbatch]
        stop = start + n
        slot = op.microbatch % self.buffers.role.slots
        turn = None
        images: Array | None = None
        if features and self.buffers.layout.has_rows:
            images = self.buffers.matrix(f"x.{slot}", n, features)
        elif features:
            images = self.buffers.matrix("work", n, features)
            turn = partial(copy_transposed, images, self.buffers.matrix(f"x.{slot}", features, n))

        take_images = feed.images.take

        def load_images() -> None:
            take_images(feed.indices[start:stop], 0, images, "clip")
            if turn is not None:
                turn()

        if not classes:
            return load_images
        targets = self.buffers.matrix(f"t.{slot}", classes, n)
        flat, scale = targets.reshape(-1), xp.array(1.0 / self.samples, targets.dtype)
        rows, columns, places = feed.labels * n, xp.arange(n), xp.empty(n, feed.labels.dtype)
        take_rows, add, clear = rows.take, xp.add, targets.fill

        def load() -> None:
            chosen = feed.indices[start:stop]
            if images is not None:
                take_images(chosen, 0, images, "clip")
                if turn is not None:
                    turn()
            take_rows(chosen, None, places, "clip")
            add(places, columns, places)
            clear(0.0)
            flat[places] = scale

        return load

    def _turn(self, op: Compute) -> Call:
        """Return the copy between this rank's samples, features first, and those of all, samples first."""
        layout, n, width = self.buffers.layout, op.shape.n, op.shape.m
        slot = op.microbatch % self.buffers.role.slots
        home = layout.places.home[layout.network.nodes[op.layer].inputs[0]]
        is_forward = op.kernel is Kernel.TRANSPOSE
        own = self.buffers.matrix(
            slotted(layout, layout.buffer(home) if is_forward else layout.gradient(home), slot),
            width,
            n,
        )
        start = self.image_starts[op.microbatch] - self.sample_starts[op.microbatch]
        name = "e" if is_forward else "ge"
        samples = self.buffers.arrays[f"{name}.{slot}"][start * width : (start + n) * width]
        rows = samples.reshape(n, width)
        return (
            partial(copy_transposed, own, rows)
            if is_forward
            else partial(copy_transposed, rows, own)
        )

    def _loss(self, op: Compute) -> Call:
        n, classes, slot = op.shape.n, op.shape.m, op.microbatch % self.buffers.role.slots
        layout = self.buffers.layout
        targets = self.buffers.matrix(f"t.{slot}", classes, n)
        module = SoftmaxCrossEntropy(1.0 / self.samples, targets)
        self.losses.append(module)
        logits = self.buffers.matrix(f"{layout.buffer(layout.final)}.{slot}", classes, n)
        return module.bind(logits)

    def _node(self, op: Compute) -> Call:
        """Return the call of one kernel of a node; its first one makes the module."""
        views = Views(self.buffers, op)
        described_as = self.buffers.layout.network.nodes[op.layer].module
        if op.kernel is forward_kernels(described_as)[0]:
            self._modules[op.layer, op.microbatch] = self._module(op, views)
        module = self._modules[op.layer, op.microbatch]
        inputs = [views.input(place) for place in range(views.num_inputs)]
        match op.kernel:
            case Kernel.BATCHNORM_SUMS:
                return partial(module.forward_sums, *inputs)
            case Kernel.BATCHNORM_BACKWARD_SUMS:
                return partial(module.backward_sums, views.grad_output())
            case kernel if kernel in forward_kernels(described_as):
                return _bound(module, "forward", *inputs)
            case _:
                return self._backward(module, views)

    def _backward(self, module: _Module, views: Views) -> Call:
        """Return the backward pass, without what another rank brings in this one's place."""
        backward = _bound(module, "backward", views.grad_output())
        emptied = [array for array, adds in views.dropped() if not adds]
        if not emptied:
            return backward

        def empty_first() -> None:
            for array in emptied:
                array.fill(0.0)
            backward()

        return empty_first

    def _module(self, op: Compute, views: Views) -> _Module:
        buffers, layout, shard = self.buffers, self.buffers.layout, views.shard
        work, adds = buffers.arrays["work"], op.microbatch > 0
        destinations = [views.grad_input(place) for place in range(views.num_inputs)]
        grad_input, adds_input = destinations[0] or (None, False)
        output = None if views.is_in_place else views.output()
        match layout.network.nodes[op.layer].module:
            case described.Linear():
                weight, bias = pieces(layout, shard, buffers.flat("param"))
                grad_weight, grad_bias = pieces(layout, shard, buffers.flat("grad"))
                n = op.shape.n
                is_copied = views.has_rows and n * op.shape.k * op.shape.m <= SMALL_PRODUCT
                return Linear(
                    weight, bias, grad_weight, grad_bias, views.output(), grad_input,
                    adds=adds,
                    row_major=buffers.matrix("work", op.shape.k, n) if is_copied else None,
                    sample_major=op.layer == layout.exchange, adds_input=adds_input,
                )  # fmt: skip
            case described.Conv2d(stride=stride, padding=padding):
                return Conv2d(
                    *pieces(layout, shard, buffers.flat("param")),
                    *pieces(layout, shard, buffers.flat("grad")),
                    views.output(), work, stride, padding, grad_input, adds, adds_input,
                )  # fmt: skip
            case described.BatchNorm2d(eps, momentum):
                sums = buffers.matrix(views.slot(f"s{op.layer}"), 4, shard.num_outputs)
                rows = self.shared_rows[op.microbatch] if self.shared_rows else op.shape.n
                scale, shift = pieces(layout, shard, buffers.flat("param"))
                grad_scale, grad_shift = pieces(layout, shard, buffers.flat("grad"))
                assert shift is not None
                assert grad_shift is not None
                return BatchNorm2d(
                    scale, shift, grad_scale, grad_shift,
                    *stat_pieces(layout, shard, buffers.flat("stat")),
                    views.output(), sums[:2], sums[2:], work, rows * op.shape.p, eps, momentum,
                    grad_input, adds, adds_input, is_shared=bool(self.shared_rows),
                )  # fmt: skip
            case described.ReLU():
                return ReLU(output, grad_input, adds_input)
            case described.Sigmoid():
                values = views.output()
                scratch = work[: values.size].reshape(values.shape)
                return Sigmoid(scratch, output, grad_input, adds_input)
            case described.MaxPool(_, stride, padding) | described.AvgPool(_, stride, padding) as pool:  # fmt: skip
                kind = MaxPool if isinstance(pool, described.MaxPool) else AvgPool
                window = pooling_window(layout.network, op.layer)
                return kind(views.output(), window, stride, padding, work, grad_input, adds_input)
            case described.Add():
                found = [each for each in destinations if each is not None]
                return Add(output, tuple(found))
            case _:
                raise ValueError(f"{op} must be of a module that computes")


def _bound(module: _Module, name: str, *arrays: Array) -> Call:
    """Return a pass of ``module`` on ``arrays``: prepared ahead, where the module can."""
    match module:
        case Linear() | Sigmoid():
            bind = module.bind_forward if name == "forward" else module.bind_backward
            return bind(*arrays)
        case _:
            return partial(getattr(module, name), *arrays)
