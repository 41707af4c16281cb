"""Kernels: each compute op of a program bound to the module and the arrays it works on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from exec.network import modules as described
from exec.network.network import Image, pooling_window
from exec.nn.activation import ReLU
from exec.nn.addition import Add
from exec.nn.backend import SMALL_PRODUCT, Array, Indices, xp
from exec.nn.convolution import Conv2d
from exec.nn.modules import Linear, Sigmoid, SoftmaxCrossEntropy
from exec.nn.normalisation import BatchNorm2d
from exec.nn.optimiser import Sgd
from exec.nn.pooling import AvgPool, MaxPool
from exec.nn.transposed import copy_transposed
from exec.plan.layout import Layout
from exec.plan.places import EXCHANGED, STAGE_INPUT
from exec.plan.shards import NodeShard, Split
from exec.program.ops import Compute, Kernel
from exec.runtime.buffers import Buffers
from exec.runtime.pieces import pieces, stat_pieces
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

        def load_images() -> None:
            feed.images.take(feed.indices[start:stop], axis=0, out=images, mode="clip")
            if turn is not None:
                turn()

        if not classes:
            return load_images
        targets = self.buffers.matrix(f"t.{slot}", classes, n)
        flat, scale = targets.reshape(-1), targets.dtype.type(1.0 / self.samples)
        rows, columns, places = feed.labels * n, xp.arange(n), xp.empty(n, feed.labels.dtype)

        def load() -> None:
            if images is not None:
                load_images()
            rows.take(feed.indices[start:stop], out=places, mode="clip")
            xp.add(places, columns, out=places)
            targets.fill(0.0)
            flat[places] = scale

        return load

    def _turn(self, op: Compute) -> Call:
        """Return the copy between this rank's samples, features first, and those of all, samples first."""
        layout, n, width = self.buffers.layout, op.shape.n, op.shape.m
        slot = op.microbatch % self.buffers.role.slots
        home = layout.places.home[layout.network.nodes[op.layer].inputs[0]]
        is_forward = op.kernel is Kernel.TRANSPOSE
        own = self.buffers.matrix(
            _slotted(layout, layout.buffer(home) if is_forward else layout.gradient(home), slot),
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
        return partial(module.forward_backward, logits)

    def _node(self, op: Compute) -> Call:
        """Return the call of one kernel of a node; its first one makes the module."""
        views = _Views(self.buffers, op)
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
                return partial(module.forward, *inputs)
            case _:
                return self._backward(module, views)

    def _backward(self, module: _Module, views: "_Views") -> Call:
        """Return the backward pass, without what another rank brings in this one's place."""
        backward = partial(module.backward, views.grad_output())
        emptied = [array for array, adds in views.dropped() if not adds]
        if not emptied:
            return backward

        def empty_first() -> None:
            for array in emptied:
                array.fill(0.0)
            backward()

        return empty_first

    def _module(self, op: Compute, views: "_Views") -> _Module:
        buffers, layout, shard = self.buffers, self.buffers.layout, views.shard
        work, adds = buffers.arrays["work"], op.microbatch > 0
        destinations = [views.grad_input(place) for place in range(views.num_inputs)]
        grad_input, adds_input = destinations[0] or (None, False)
        output = None if views.is_in_place else views.output()
        match layout.network.nodes[op.layer].module:
            case described.Linear():
                weight, bias = pieces(layout, shard, buffers.parameters)
                grad_weight, grad_bias = pieces(layout, shard, buffers.arrays["grad"])
                n = op.shape.n
                is_copied = views.has_rows and n * op.shape.k * op.shape.m <= SMALL_PRODUCT
                return Linear(
                    weight, bias, grad_weight, grad_bias, views.output(), grad_input,
                    scratch=work[: weight.size].reshape(weight.shape) if adds else None, adds=adds,
                    row_major=buffers.matrix("work", op.shape.k, n) if is_copied else None,
                    sample_major=op.layer == layout.exchange, adds_input=adds_input,
                )  # fmt: skip
            case described.Conv2d(stride=stride, padding=padding):
                return Conv2d(
                    *pieces(layout, shard, buffers.parameters),
                    *pieces(layout, shard, buffers.arrays["grad"]),
                    views.output(), work, stride, padding, grad_input, adds, adds_input,
                )  # fmt: skip
            case described.BatchNorm2d(eps, momentum):
                sums = buffers.matrix(views.slot(f"s{op.layer}"), 4, shard.num_outputs)
                rows = self.shared_rows[op.microbatch] if self.shared_rows else op.shape.n
                scale, shift = pieces(layout, shard, buffers.parameters)
                grad_scale, grad_shift = pieces(layout, shard, buffers.arrays["grad"])
                assert shift is not None
                assert grad_shift is not None
                return BatchNorm2d(
                    scale, shift, grad_scale, grad_shift,
                    *stat_pieces(layout, shard, buffers.stats),
                    views.output(), sums[:2], sums[2:], work, rows * op.shape.p, eps, momentum,
                    grad_input, adds, adds_input,
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


@dataclass(slots=True)
class _Views:
    """The arrays that one op works on: (channels, height, width, samples), or (units, samples)."""

    buffers: Buffers
    op: Compute
    layout: Layout = field(init=False)
    shard: NodeShard = field(init=False)

    def __post_init__(self) -> None:
        self.layout = self.buffers.layout
        self.shard = self.layout.shard(self.op.layer)

    @property
    def num_inputs(self) -> int:
        """How many values the node takes."""
        return len(self._values)

    @property
    def _values(self) -> tuple[int, ...]:
        return self.layout.network.nodes[self.op.layer].inputs

    @property
    def is_in_place(self) -> bool:
        """Whether the output takes the place of the first input."""
        return self._home(self._values[0]) == self._home(self.op.layer)

    @property
    def has_rows(self) -> bool:
        """Whether the input has samples first: images as they come, or an exchanged batch."""
        home = self._home(self._values[0])
        return home == EXCHANGED or (home == STAGE_INPUT and self.layout.has_rows)

    def _home(self, value: int) -> int:
        if self.op.layer == self.layout.exchange and value == self._values[0]:
            return EXCHANGED
        return self.layout.places.home.get(value, STAGE_INPUT)

    def output(self) -> Array:
        """Return where this rank's share of the output is."""
        return self._own(self.op.layer, self.layout.buffer(self._home(self.op.layer)))

    def grad_output(self) -> Array:
        """Return the gradient of this rank's share of the output."""
        return self._own(self.op.layer, self.layout.gradient(self._home(self.op.layer)))

    def input(self, place: int) -> Array:
        """Return what this rank takes of an input."""
        value = self._values[place]
        name = self.layout.buffer(self._home(value))
        if self.has_rows:
            return self.buffers.matrix(self.slot(name), self.op.shape.n, self.op.shape.k).T
        return self._taken(value, name)

    def grad_input(self, place: int) -> tuple[Array, bool] | None:
        """Return where the gradient of an input goes, and whether it is added to what is there.

        None if nobody needs it, or if it is where the gradient of the output is.
        """
        return None if self._is_dropped(place) else self._destination(place)

    def dropped(self) -> list[tuple[Array, bool]]:
        """Return the gradients of inputs, as above, that another rank of the tp group brings."""
        places = filter(self._is_dropped, range(self.num_inputs))
        return [found for found in map(self._destination, places) if found is not None]

    def _is_dropped(self, place: int) -> bool:
        """Say whether all ranks have this gradient alike, and the first brings it to their sum."""
        is_alike = not (self.shard.is_weighted and self.shard.split is Split.COLUMN)
        home = self._home(self._values[place])
        return self.layout.tp_rank > 0 and is_alike and self.layout.sums_gradient(home)

    def _destination(self, place: int) -> tuple[Array, bool] | None:
        layout, value = self.layout, self._values[place]
        home = self._home(value)
        if home not in layout.places.learning or (place == 0 and self.is_in_place):
            return None
        others = [self._home(each) for each in self._values[:place]]
        adds = layout.places.adds(self.op.layer, home) or home in others
        if home == EXCHANGED:
            return self.buffers.matrix(self.slot("ge"), self.op.shape.n, self.op.shape.k), False
        return self._taken(value, layout.gradient(home)), adds

    def _taken(self, value: int, name: str) -> Array:
        """Return what the node takes of ``value``: its share, or the whole."""
        if self._home(value) != STAGE_INPUT and value in self.layout.nodes:
            maker = self.layout.shard(value)
            if maker.split is Split.COLUMN and not maker.gathers:
                return self._own(value, name)
        return self._view(name, 0, self.layout.network.shape(value))

    def _own(self, node: int, name: str) -> Array:
        """Return this rank's channels of the output of ``node``, in buffer ``name``."""
        maker, (_, *image) = self.layout.shard(node), self.layout.network.shape(node)
        first = maker.out_start if self.layout.is_whole(self._home(node)) else 0
        pixels = self.layout.network.pixels(node)
        return self._view(name, first * pixels, (maker.num_outputs, image[0], image[1]))

    def _view(self, name: str, start: int, shape: Image) -> Array:
        n = self.op.shape.n
        size = shape[0] * shape[1] * shape[2]
        flat = self.buffers.arrays[self.slot(name)][start * n : (start + size) * n]
        is_flat = isinstance(self.layout.network.nodes[self.op.layer].module, described.Linear)
        return flat.reshape((shape[0], n) if is_flat else (*shape, n))

    def slot(self, name: str) -> str:
        """Return the buffer ``name`` of this op's slot."""
        return _slotted(self.layout, name, self.op.microbatch % self.buffers.role.slots)


def _slotted(layout: Layout, name: str, slot: int) -> str:
    return f"{name}.{slot}" if layout.has_slots(name) else name
