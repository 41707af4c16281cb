"""A network evaluated on a chunk of images, in a few arrays that its values share.

Normalisations use their running statistics. Images have their channels last; what dense layers and
flattening give, (units, samples), is images of one pixel with the samples last.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream, zeros
from exec.gpu import activation, convolution, linear, normalisation, pooling
from exec.gpu.addition import add
from exec.gpu.calls import in_turn
from exec.gpu.images import Images, Order
from exec.gpu.loading import load_images
from exec.gpu.transposed import flatten, reorder
from exec.network.gpu_scratch import gpu_scratch_elements
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Profiled,
    ReLU,
    Sigmoid,
)
from exec.network.network import INPUT, Network, pooling_window
from exec.network.rooms import AS_THEY_COME, Rooms, rooms_of


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one node has learnt.

    ``weight`` is (units, inputs), (filters, kernel height, kernel width, channels) or, of a
    normalisation, its scales; ``bias`` (units,), or its shifts; ``mean`` and ``variance`` are its
    running statistics.
    """

    weight: DeviceArray
    bias: DeviceArray | None = None
    mean: DeviceArray | None = None
    variance: DeviceArray | None = None


def learnt_of(network: Network, parameters: DeviceArray, stats: DeviceArray) -> dict[int, Learnt]:
    """Return views of what each node has learnt.

    ``parameters`` are flat, the first node first, each one's weights before its biases; ``stats``
    are its running means before its variances.
    """
    return dict(_learnt(network, parameters, stats))


def _learnt(
    network: Network, parameters: DeviceArray, stats: DeviceArray
) -> Iterator[tuple[int, Learnt]]:
    for index, node in enumerate(network.nodes):
        channels, has_bias = network.shape(node.inputs[0])[0], True
        match node.module:
            case Linear(units, has_bias):
                shape: tuple[int, ...] = units, channels
            case Conv2d(filters, kernel, has_bias=has_bias):
                shape = filters, *kernel, channels
            case BatchNorm2d():
                shape = (channels,)
            case _:
                continue
        size = math.prod(shape)
        weight, bias = parameters[:size].reshape(*shape), None
        parameters = parameters[size:]
        if has_bias:
            bias, parameters = parameters[: shape[0]], parameters[shape[0] :]
        if isinstance(node.module, BatchNorm2d):
            mean, variance = stats[:channels], stats[channels : 2 * channels]
            stats = stats[2 * channels :]
            yield index, Learnt(weight, bias, mean, variance)
        else:
            yield index, Learnt(weight, bias)


def order_of(network: Network, value: int) -> Order:
    """Return the order in which ``value`` is."""
    while value != INPUT:
        node = network.nodes[value]
        if isinstance(node.module, Linear | Flatten):
            return Order.SAMPLES_LAST
        value = node.inputs[0]
    return Order.CHANNELS_LAST


def places_of(network: Network) -> Rooms:
    """Return where the values of an evaluation are."""
    return rooms_of(network, flattens_in_place=False)


def work_elements(network: Network, rows: int) -> int:
    """Return the elements of scratch that the modules need for ``rows`` images."""
    most = 0
    for index, node in enumerate(network.nodes):
        value = node.inputs[0]
        match node.module:
            case Conv2d():
                needed = gpu_scratch_elements(
                    network, index, network.shape(value)[0], node.shape[0], rows,
                    is_channels_last=order_of(network, value) is Order.CHANNELS_LAST,
                )  # fmt: skip
            case Flatten() | Add():
                needed = network.width(index) * rows
            case _:
                needed = 0
        most = max(most, needed)
    return most


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A network with what it has learnt, and room to evaluate it on up to ``rows`` images.

    They come in ``staged``, (rows, features).
    """

    stream: Stream
    network: Network
    learnt: dict[int, Learnt]
    staged: DeviceArray
    rooms: tuple[DeviceArray, ...]
    work: DeviceArray
    indices: DeviceArray
    start: DeviceArray

    @classmethod
    def of(
        cls, stream: Stream, network: Network, learnt: dict[int, Learnt], rows: int, dtype: DTypeLike
    ) -> "Evaluation":  # fmt: skip
        """Return an evaluation of ``network`` in new arrays."""
        device = stream.device
        return cls(
            stream, network, learnt,
            device.empty(network.num_features * rows, dtype).reshape(rows, network.num_features),
            tuple(device.empty(size * rows, dtype) for size in places_of(network).sizes),
            device.empty(work_elements(network, rows), dtype),
            device.upload(np.arange(rows, dtype=np.int32)),
            zeros(device, 1, np.int32),
        )  # fmt: skip

    def bind(self, rows: int) -> tuple[Call, Images]:
        """Return a call that evaluates the first ``rows`` images, and where their logits will be."""
        network = self.network
        calls = [self._node(index, rows) for index in range(len(network.nodes))]
        if places_of(network).of[INPUT] != AS_THEY_COME:
            load = load_images(
                self.stream, self.staged, self.indices, self.start, 0, rows,
                self._images(INPUT, rows).array, shape=network.image, into=Order.CHANNELS_LAST,
            )  # fmt: skip
            calls.insert(0, load)
        return in_turn(*calls), self._images(len(network.nodes) - 1, rows)

    def _images(self, value: int, rows: int) -> Images:
        """Return where ``value`` of ``rows`` images is."""
        room = self.rooms[places_of(self.network).of[value]]
        array = room[: self.network.width(value) * rows]
        return Images(array, *self.network.shape(value), rows, order_of(self.network, value))

    def _matrix(self, value: int, rows: int) -> DeviceArray:
        """Return ``value``, whose images are of one pixel or as they come, as (units, samples)."""
        if places_of(self.network).of[value] == AS_THEY_COME:
            return self.staged[:rows].T
        images = self._images(value, rows)
        if images.order is Order.CHANNELS_LAST:
            return images.array.reshape(rows, -1).T
        return images.array.reshape(-1, rows)

    def _node(self, index: int, rows: int) -> Call:
        """Return what sets the value of node ``index``."""
        stream, node = self.stream, self.network.nodes[index]
        value = node.inputs[0]
        if isinstance(node.module, Linear):
            weight = self.learnt[index].weight
            output = self._images(index, rows)
            product = linear.forward(
                stream, weight, self._matrix(value, rows), output.array.reshape(-1, rows)
            )
            return self._with_bias(product, index, output)
        if places_of(self.network).of[index] == AS_THEY_COME:
            return in_turn()
        a, output = self._images(value, rows), self._images(index, rows)
        match node.module:
            case Conv2d(stride=stride, padding=padding):
                weight = self.learnt[index].weight
                product = convolution.forward(stream, a, weight, output, stride, padding, self.work)
                return self._with_bias(product, index, output)
            case BatchNorm2d(eps):
                own = self.learnt[index]
                assert own.bias is not None
                assert own.mean is not None
                assert own.variance is not None
                return normalisation.normalise(
                    stream, a, output, own.weight, own.bias, own.mean, own.variance, eps
                )
            case MaxPool(_, stride, padding):
                window = pooling_window(self.network, index)
                return pooling.max_forward(stream, a, output, window, stride, padding)
            case AvgPool(_, stride, padding):
                window = pooling_window(self.network, index)
                return pooling.average_forward(stream, a, output, window, stride, padding)
            case ReLU():
                return activation.relu(stream, a.array, output.array)
            case Sigmoid():
                return activation.sigmoid(stream, a.array, output.array)
            case Add():
                return self._add(a, self._images(node.inputs[1], rows), output)
            case Flatten():
                return self._flatten(a, output)
            case Profiled():
                raise ValueError("a layer of which only the times are known cannot be computed")

    def _with_bias(self, product: Call, index: int, output: Images) -> Call:
        """Return ``product``, and what adds the bias of node ``index`` if it has one."""
        bias = self.learnt[index].bias
        if bias is None:
            return product
        return in_turn(product, linear.add_bias(self.stream, output.array, bias, output.inner))

    def _add(self, a: Images, b: Images, output: Images) -> Call:
        """Return the call of ``output = a + b``, of which ``b`` may be in the other order."""
        if a.order is b.order:
            return add(self.stream, a.array, b.array, output.array)
        turned = Images(
            self.work[: b.array.size], b.channels, b.height, b.width, b.samples, a.order
        )
        return in_turn(
            reorder(self.stream, b, turned), add(self.stream, a.array, turned.array, output.array)
        )

    def _flatten(self, a: Images, output: Images) -> Call:
        """Return the call that flattens ``a``, which may be in the same place as ``output``."""
        is_same = a.array.pointer == output.array.pointer
        if a.order is Order.SAMPLES_LAST:
            return in_turn() if is_same else self.stream.bind_copy(a.array, output.array)
        if not is_same:
            return flatten(self.stream, a, output.array)
        room = self.work[: a.array.size]
        return in_turn(flatten(self.stream, a, room), self.stream.bind_copy(room, output.array))
