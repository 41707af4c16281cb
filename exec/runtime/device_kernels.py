"""Kernels on a device: each compute op of a program bound to what a stream is to be given."""

from dataclasses import dataclass, field, replace
from functools import partial

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu import (  # fmt: skip
    activation,
    addition,
    convolution,
    linear,
    loading,
    optimiser,
    pooling,
    transposed,
)
from exec.gpu.calls import in_turn
from exec.gpu.feed import DeviceFeed
from exec.gpu.images import Images, Order
from exec.gpu.loss import Loss
from exec.gpu.normalisation import BatchNorm2d
from exec.network import modules as described
from exec.network.network import pooling_window
from exec.program.ops import Compute, Kernel
from exec.runtime.biases import adds_late, sums_early
from exec.runtime.buffers import Buffers, Numbers
from exec.runtime.pieces import pieces, stat_pieces
from exec.runtime.views import Views, slotted
from exec.workload import forward_kernels


@dataclass(slots=True)
class DeviceKernelBinder:
    """Binds the ops of one step to ``stream``; the fields are those of the binder for CPUs.

    Where nothing comes between a layer and its activation or the loss, these add the layer's bias
    and, on the way back, sum its gradient: a kernel less each.
    """

    stream: Stream
    buffers: Buffers
    feed: DeviceFeed
    learning_rate: float
    momentum: float
    samples: int
    sample_starts: tuple[int, ...]
    image_starts: tuple[int, ...]
    shared_rows: tuple[int, ...] = ()
    losses: list[Loss] = field(default_factory=list)
    _norms: dict[tuple[int, int], BatchNorm2d] = field(default_factory=dict)

    def bind(self, op: Compute) -> Call:
        """Return a call without arguments that enqueues ``op``."""
        match op.kernel:
            case Kernel.LOAD:
                return self._load(op)
            case Kernel.LOSS:
                return self._loss(op)
            case Kernel.UPDATE:
                return self._update(op)
            case Kernel.TRANSPOSE | Kernel.TRANSPOSE_BACKWARD:
                return self._turn(op)
            case Kernel.ACCUMULATE:
                raise ValueError("accumulate must be on the communication lane")
            case kernel:
                module = self.buffers.layout.network.nodes[op.layer].module
                if isinstance(module, described.BatchNorm2d):
                    return self._normalisation(op, module)
                is_forward = kernel in forward_kernels(module)
                return self._forward(op) if is_forward else self._backward(op)

    def _update(self, op: Compute) -> Call:
        buffers, part = self.buffers, op.part

        def own(name: str) -> DeviceArray:
            found: DeviceArray = buffers.flat(name) if part is None else buffers.part(replace(part, buffer=name))  # fmt: skip
            return found

        parameters = own("param") if part is None else buffers.part(part)
        velocity = own("velocity") if buffers.has_velocity else None
        return optimiser.sgd(
            self.stream, parameters, own("grad"), velocity, self.learning_rate, self.momentum
        )

    def _load(self, op: Compute) -> Call:
        feed, buffers, n, features = self.feed, self.buffers, op.shape.n, op.shape.k
        if not features:  # the loss looks up the labels itself
            return in_turn()
        slot = op.microbatch % buffers.role.slots
        return loading.load_images(
            self.stream, feed.images, feed.order, feed.position, self.image_starts[op.microbatch], n,
            buffers.arrays[f"x.{slot}"][: n * features], shape=buffers.layout.network.image,
            into="rows" if buffers.layout.has_rows else self._order_of_input,
        )  # fmt: skip

    def _loss(self, op: Compute) -> Call:
        n, classes, layout = op.shape.n, op.shape.m, self.buffers.layout
        slot, last = op.microbatch % self.buffers.role.slots, layout.nodes[-1]
        logits = self.buffers.matrix(f"{layout.buffer(layout.final)}.{slot}", classes, n)
        bias = self._bias(last) if adds_late(self.buffers.layout, last) else None
        loss = Loss(
            self.stream, logits, bias, self.feed.labels, self.feed.order, self.feed.position,
            self.sample_starts[op.microbatch], 1.0 / self.samples,
        )  # fmt: skip
        self.losses.append(loss)
        return loss.forward_backward

    def _turn(self, op: Compute) -> Call:
        """Return the copy between this rank's samples, features first, and those of all, samples first."""
        layout, n, width = self.buffers.layout, op.shape.n, op.shape.m
        slot = op.microbatch % self.buffers.role.slots
        home = layout.places.home[layout.network.nodes[op.layer].inputs[0]]
        is_forward = op.kernel is Kernel.TRANSPOSE
        name = layout.buffer(home) if is_forward else layout.gradient(home)
        own = self.buffers.matrix(slotted(layout, name, slot), width, n)
        start = self.image_starts[op.microbatch] - self.sample_starts[op.microbatch]
        exchanged = self.buffers.arrays[f"{'e' if is_forward else 'ge'}.{slot}"]
        rows = exchanged[start * width : (start + n) * width].reshape(n, width)
        source, target = (own, rows) if is_forward else (rows, own)
        return transposed.copy_transposed(self.stream, source, target)

    def _forward(self, op: Compute) -> Call:
        views, stream, work = Views(self.buffers, op), self.stream, self.buffers.arrays["work"]
        layout, network = self.buffers.layout, self.buffers.layout.network
        node, output = network.nodes[op.layer], views.output()
        match node.module:
            case described.Linear():
                before, a = self._units(op, views)
                product = linear.forward(stream, self._weight(op.layer), a, output)
                return in_turn(before, product, self._add_bias(op, output))
            case described.Conv2d(stride=stride, padding=padding):
                images, given = (
                    self._images(op.layer, views.input(0)),
                    self._images(op.layer, output),
                )
                product = convolution.forward(stream, images, self._weight(op.layer), given, stride, padding, work)  # fmt: skip
                return in_turn(product, self._add_bias(op, output))
            case described.ReLU() | described.Sigmoid() as module:
                apply = activation.relu if isinstance(module, described.ReLU) else activation.sigmoid  # fmt: skip
                before_it = node.inputs[0]
                bias = self._bias(before_it) if adds_late(self.buffers.layout, before_it) else None
                a = output if views.is_in_place else views.input(0)
                return apply(stream, _flat(a), _flat(output), bias, self._inner(op.layer, a))
            case described.MaxPool(_, stride, padding) | described.AvgPool(_, stride, padding) as module:  # fmt: skip
                pool = pooling.max_forward if isinstance(module, described.MaxPool) else pooling.average_forward  # fmt: skip
                window = pooling_window(network, op.layer)
                return pool(stream, self._images(op.layer, views.input(0)), self._images(op.layer, output), window, stride, padding)  # fmt: skip
            case described.Add():
                a, b = (_flat(views.input(place)) for place in range(2))
                return addition.add(stream, a, b, _flat(output))
            case _:
                raise ValueError(f"{op} must be of a module that computes on {layout.stage}")

    def _backward(self, op: Compute) -> Call:
        """Return the backward pass, without what another rank brings in this one's place."""
        views, stream, work = Views(self.buffers, op), self.stream, self.buffers.arrays["work"]
        network, gb = self.buffers.layout.network, views.grad_output()
        node, later = network.nodes[op.layer], op.microbatch > 0
        emptied = [stream.bind_fill(_flat(array), 0.0) for array, adds in views.dropped() if not adds]  # fmt: skip
        destinations = [views.grad_input(place) for place in range(views.num_inputs)]
        found, adds = destinations[0] or (None, False)
        match node.module:
            case described.Linear():
                return in_turn(*emptied, self._linear_backward(op, views, gb, found, adds=adds))
            case described.Conv2d(stride=stride, padding=padding):
                weight, images = self._weight(op.layer), self._images(op.layer, gb)
                calls = [convolution.backward_weight(
                    stream, self._images(op.layer, views.input(0)), images, self._grads(op.layer)[0], stride, padding,
                    work, adds=later,
                )]  # fmt: skip
                if (grad_bias := self._grads(op.layer)[1]) is not None:
                    calls.append(convolution.backward_bias(stream, images, grad_bias, work, adds=later))  # fmt: skip
                if found is not None:
                    calls.append(convolution.backward_input(
                        stream, weight, images, self._images(op.layer, found), stride, padding, work, adds=adds
                    ))  # fmt: skip
                return in_turn(*emptied, *calls)
            case described.ReLU() | described.Sigmoid() as module:
                target = gb if found is None else found
                b, before_it = views.output(), node.inputs[0]
                is_relu = isinstance(module, described.ReLU)
                if sums_early(self.buffers.layout, before_it):
                    back = activation.relu_backward_bias if is_relu else activation.sigmoid_backward_bias  # fmt: skip
                    _, grad_bias = self._grads(before_it)
                    assert grad_bias is not None
                    return back(
                        stream, _flat(b), _flat(gb), _flat(target), grad_bias, b.shape[0],
                        adds=adds, adds_bias=later,
                    )  # fmt: skip
                plain = activation.relu_backward if is_relu else activation.sigmoid_backward
                return in_turn(
                    *emptied, plain(stream, _flat(b), _flat(gb), _flat(target), adds=adds)
                )
            case described.MaxPool(_, stride, padding) | described.AvgPool(_, stride, padding) as module:  # fmt: skip
                if found is None:
                    return in_turn(*emptied)
                window, place = pooling_window(network, op.layer), self._images(op.layer, found)
                if isinstance(module, described.MaxPool):
                    back = partial(
                        pooling.max_backward, stream, self._images(op.layer, views.input(0))
                    )
                else:
                    back = partial(pooling.average_backward, stream)
                return in_turn(*emptied, back(self._images(op.layer, gb), place, window, stride, padding, adds=adds))  # fmt: skip
            case described.Add():
                each = [addition.pass_on(stream, _flat(gb), _flat(place), adds=adds) for place, adds in filter(None, destinations)]  # fmt: skip
                return in_turn(*emptied, *each)
            case _:
                raise ValueError(f"{op} must be of a module that computes")

    def _linear_backward(
        self, op: Compute, views: Views, gb: Numbers, found: Numbers | None, *, adds: bool
    ) -> Call:
        stream, layout, later = self.stream, self.buffers.layout, op.microbatch > 0
        weight, (grad_weight, grad_bias) = self._weight(op.layer), self._grads(op.layer)
        before, a = self._units(op, views)
        calls = [before, linear.backward_weight(stream, gb, a, grad_weight, adds=later)]
        if grad_bias is not None and not sums_early(self.buffers.layout, op.layer):
            calls.append(linear.backward_bias(stream, gb, grad_bias, adds=later))
        if found is None:
            return in_turn(*calls)
        value = layout.network.nodes[op.layer].inputs[0]
        if op.layer == layout.exchange:
            calls.append(linear.backward_input(stream, weight, gb, found, adds=adds, sample_major=True))  # fmt: skip
        elif not self._is_channels_last(value):
            calls.append(linear.backward_input(stream, weight, gb, found, adds=adds))
        elif (images := self._flattened(value, found)).pixels == 1:
            rows = images.array.reshape(images.samples, images.channels)
            calls.append(linear.backward_input(stream, weight, gb, rows, adds=adds, sample_major=True))  # fmt: skip
        else:
            units = self.buffers.matrix("work", op.shape.k, op.shape.n)
            calls.append(linear.backward_input(stream, weight, gb, units, adds=False))
            calls.append(transposed.unflatten(stream, units, images, adds=adds))
        return in_turn(*calls)

    def _units(self, op: Compute, views: Views) -> tuple[Call, DeviceArray]:
        """Return what a dense layer takes, (inputs, samples), and the call that makes it so."""
        value, a = self.buffers.layout.network.nodes[op.layer].inputs[0], views.input(0)
        if views.has_rows or not self._is_channels_last(value):
            return in_turn(), a
        images = self._flattened(value, a)
        if images.pixels == 1:
            return in_turn(), images.array.reshape(images.samples, images.channels).T
        units = self.buffers.matrix("work", op.shape.k, op.shape.n)
        return transposed.flatten(self.stream, images, units), units

    def _flattened(self, value: int, array: Numbers) -> Images:
        """Return the images that ``value``, perhaps flattened, is in ``array``."""
        network = self.buffers.layout.network
        while value >= 0 and isinstance(network.nodes[value].module, described.Flatten):
            value = network.nodes[value].inputs[0]
        shape, samples = network.shape(value), array.size // network.width(value)
        return Images(_flat(array), *shape, samples, Order.CHANNELS_LAST)

    def _normalisation(self, op: Compute, module: described.BatchNorm2d) -> Call:
        key = op.layer, op.microbatch
        if op.kernel is Kernel.BATCHNORM_SUMS:
            self._norms[key] = self._norm(op, module)
        norm = self._norms[key]
        if op.kernel in forward_kernels(module):
            return norm.forward_sums if op.kernel is Kernel.BATCHNORM_SUMS else norm.forward
        emptied = [self.stream.bind_fill(_flat(array), 0.0) for array, adds in Views(self.buffers, op).dropped() if not adds]  # fmt: skip
        if op.kernel is Kernel.BATCHNORM_BACKWARD_SUMS:
            return norm.backward_sums
        return in_turn(*emptied, norm.backward)

    def _norm(self, op: Compute, module: described.BatchNorm2d) -> BatchNorm2d:
        views, buffers, layout = Views(self.buffers, op), self.buffers, self.buffers.layout
        sums = buffers.matrix(views.slot(f"s{op.layer}"), 4, views.shard.num_outputs)
        rows = self.shared_rows[op.microbatch] if self.shared_rows else op.shape.n
        scale, shift = pieces(layout, views.shard, buffers.flat("param"))
        grad_scale, grad_shift = pieces(layout, views.shard, buffers.flat("grad"))
        mean, variance = stat_pieces(layout, views.shard, buffers.flat("stat"))
        found, adds = views.grad_input(0) or (None, False)
        assert shift is not None
        assert grad_shift is not None
        return BatchNorm2d(
            self.stream, scale, shift, grad_scale, grad_shift, mean, variance,
            self._images(op.layer, views.input(0)), self._images(op.layer, views.output()),
            self._images(op.layer, views.grad_output()), None if found is None else self._images(op.layer, found), sums[:2], sums[2:], buffers.arrays["work"],
            rows * op.shape.p, module.eps, module.momentum, op.microbatch > 0, adds,
            is_shared=bool(self.shared_rows),
        )  # fmt: skip

    @property
    def _order_of_input(self) -> Order:
        return Order.CHANNELS_LAST if self.buffers.layout.is_channels_last else Order.SAMPLES_LAST

    def _is_channels_last(self, value: int) -> bool:
        layout = self.buffers.layout
        return layout.is_channels_last and layout.network.is_image(value)

    def _images(self, node: int, array: Numbers) -> Images:
        """Return what ``node`` takes or gives; views shape it (channels, height, width, samples)."""
        order = Order.CHANNELS_LAST if self._is_channels_last(node) else Order.SAMPLES_LAST
        channels, height, width, samples = array.shape
        return Images(_flat(array), channels, height, width, samples, order)

    def _inner(self, node: int, array: Numbers) -> int:
        """Return how many elements of one channel of the output of ``node`` lie side by side."""
        return 1 if self._is_channels_last(node) else array.size // max(array.shape[0], 1)

    def _weight(self, node: int) -> DeviceArray:
        layout = self.buffers.layout
        found: DeviceArray = pieces(layout, layout.shard(node), self.buffers.flat("param"))[0]
        return found

    def _bias(self, node: int) -> DeviceArray | None:
        layout = self.buffers.layout
        found: DeviceArray | None = pieces(layout, layout.shard(node), self.buffers.flat("param"))[
            1
        ]
        return found

    def _grads(self, node: int) -> tuple[DeviceArray, DeviceArray | None]:
        layout = self.buffers.layout
        return pieces(layout, layout.shard(node), self.buffers.flat("grad"))

    def _add_bias(self, op: Compute, output: Numbers) -> Call:
        """Return the call that adds the bias of a node, unless whoever reads the output does."""
        bias = self._bias(op.layer)
        if bias is None or adds_late(self.buffers.layout, op.layer):
            return in_turn()
        return linear.add_bias(self.stream, _flat(output), bias, self._inner(op.layer, output))


def _flat(array: Numbers) -> DeviceArray:
    """Return all elements of ``array`` one after the other."""
    found: DeviceArray = array.reshape(-1)
    return found
