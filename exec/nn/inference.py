"""Inference: a network evaluated on images, chunk by chunk, in a few arrays used again and again.

Normalisations use their running statistics.
"""

from collections.abc import Callable, Iterator
from functools import partial

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
from exec.network.network import INPUT, Network
from exec.network.rooms import AS_THEY_COME, Rooms, rooms_of
from exec.network.scratch import scratch_elements
from exec.nn import activation, addition, convolution, modules, pooling
from exec.nn.backend import Array, Call, Indices, outer_adder, xp
from exec.nn.normalisation import normalise
from exec.nn.transposed import copy_transposed
from exec.nn.weights import NodeWeights, Weights

MAX_CHUNK = 128
"""More at a time are not faster: what a layer puts out leaves the cache before the next reads it."""

MAX_NBYTES = 64 << 20
"""A chunk has as many images as fit into so many bytes, but one at least."""


def num_correct(weights: Weights, images: Array, labels: Indices) -> int:
    """Return for how many of ``images``, (samples, features), the likeliest class is the label."""
    rows = chunk_rows(weights.network, weights.parameters.itemsize)
    correct, start = 0, 0
    for logits in evaluate(weights, images, rows):
        stop = start + logits.shape[1]
        correct += int((logits.argmax(axis=0) == labels[start:stop]).sum())
        start = stop
    return correct


def chunk_rows(network: Network, itemsize: int) -> int:
    """Return how many images to evaluate at a time."""
    rows, elements = MAX_CHUNK, sum(rooms_of(network).sizes)
    while rows > 1 and (elements * rows + _scratch(network, rows)) * itemsize > MAX_NBYTES:
        rows //= 2
    return rows


def evaluate(weights: Weights, images: Array, rows: int) -> Iterator[Array]:
    """Yield the logits, (classes, samples), of ``rows`` images at a time; the next overwrite them.

    ``images`` are of the type of the weights.
    """
    rooms, dtype = rooms_of(weights.network), weights.parameters.dtype
    rows = max(min(rows, len(images)), 1)
    arrays = [xp.empty(size * rows, dtype) for size in rooms.sizes]
    scratch = xp.empty(_scratch(weights.network, rows), dtype)
    run, bound = None, 0
    for start in range(0, len(images), rows):
        chunk = images[start : start + rows]
        if run is None or len(chunk) != bound:
            run, bound = _bind(weights, rooms, arrays, scratch, len(chunk)), len(chunk)
        yield run(chunk)


def _scratch(network: Network, rows: int) -> int:
    """Return the elements of scratch that the modules need for ``rows`` images."""
    return max(
        (
            scratch_elements(network, index, network.shape(node.inputs[0])[0], node.shape[0], rows)
            for index, node in enumerate(network.nodes)
            if isinstance(node.module, Conv2d | MaxPool | AvgPool)
        ),
        default=0,
    )


def _bind(
    weights: Weights, rooms: Rooms, arrays: list[Array], scratch: Array, rows: int
) -> Callable[[Array], Array]:
    """Return a function of ``rows`` images that returns their logits."""
    network, learnt = weights.network, dict(weights.nodes())
    given: list[Array] = []  # the images, if dense layers take them as they come

    def matrix(value: int) -> Array:
        width = network.width(value)
        return arrays[rooms.of[value]][: width * rows].reshape(width, rows)

    def image(value: int) -> Array:
        return matrix(value).reshape(*network.shape(value), rows)

    def linear(node: NodeWeights, value: int, output: Array) -> Call:
        add = None
        if node.bias is not None:
            add = outer_adder(1.0, node.bias, xp.ones(rows, output.dtype), output)
        a = None if rooms.of[value] == AS_THEY_COME else matrix(value)

        def multiply() -> None:
            xp.dot(node.weight, given[0].T if a is None else a, out=output)
            if add is not None:
                add()

        return multiply

    def call(index: int) -> Call | None:
        node = network.nodes[index]
        value = node.inputs[0]
        match node.module:
            case Linear():
                return linear(learnt[index], value, matrix(index))
            case Conv2d(stride=stride, padding=padding):
                weight, bias = learnt[index].weight, learnt[index].bias
                conv = convolution.Conv2d(weight, bias, weight, bias, image(index), scratch, stride, padding)  # fmt: skip
                return partial(conv.forward, image(value))
            case BatchNorm2d(eps):
                own = learnt[index]
                assert own.bias is not None
                assert own.mean is not None
                assert own.variance is not None
                return partial(normalise, image(value), own.weight, own.bias, own.mean, own.variance, eps, image(index))  # fmt: skip
            case MaxPool(kernel, stride, padding):
                most = pooling.MaxPool(image(index), kernel, stride, padding, scratch)
                return partial(most.forward, image(value))
            case AvgPool(kernel, stride, padding):
                window = kernel or network.shape(value)[1:]
                mean = pooling.AvgPool(image(index), window, stride, padding, scratch)
                return partial(mean.forward, image(value))
            case ReLU():
                return partial(activation.ReLU(matrix(index)).forward, matrix(value))
            case Sigmoid():
                return partial(modules.Sigmoid(matrix(index), matrix(index)).forward, matrix(value))  # fmt: skip
            case Add():
                terms = (matrix(each) for each in node.inputs)
                return partial(addition.Add(matrix(index)).forward, *terms)
            case Flatten():
                return None
            case Profiled():
                raise ValueError("a layer of which only the times are known cannot be computed")

    calls = [each for each in map(call, range(len(network.nodes))) if each is not None]

    def run(images: Array) -> Array:
        given[:] = [images]
        if rooms.of[INPUT] != AS_THEY_COME:
            copy_transposed(images, matrix(INPUT))
        for each in calls:
            each()
        return matrix(len(network.nodes) - 1)

    return run
