"""An oracle: a network's loss and gradient, told plainly, in arrays of (samples, channels, h, w).

It shares nothing with the executor but the order of weights in :class:`Weights`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Pair,
    ReLU,
    Sigmoid,
)
from exec.network.network import INPUT, Network, Node
from exec.nn.weights import NodeWeights, Weights

Flat = NDArray[np.float64]
Blur = Callable[[Flat], Flat]


def coarse(seed: int, unit: float) -> Blur:
    """Return a rounding at random: to each number a relative error of about ``unit``."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return lambda a: a * (1 + unit * generator.standard_normal(a.shape))


def exactly(a: Flat) -> Flat:
    """Return ``a``, as precise as it is."""
    return a


@dataclass(slots=True)
class PlainNetwork:
    """One pass over samples that are normalised together; ``blur`` rounds all that is computed.

    ``stats`` are the running statistics after it.
    """

    network: Network
    flat: Flat
    stats: Flat
    blur: Blur = exactly
    values: dict[int, Flat] = field(default_factory=dict)
    kept: dict[int, tuple[Flat, Flat]] = field(default_factory=dict)

    def gradient(self, images: Flat, labels: NDArray[np.int64]) -> tuple[float, Flat]:
        """Return the sums over the samples of the loss and of its gradient."""
        network, blur = self.network, self.blur
        found = np.zeros_like(self.flat)
        if not len(labels):
            return 0.0, found
        self.stats = self.stats.copy()
        learnt = dict(Weights(network, self.flat, self.stats).nodes())
        gradients = dict(Weights(network, found, np.zeros_like(self.stats)).nodes())
        self.values = {INPUT: images.astype(np.float64).reshape(-1, *network.image)}
        for index, node in enumerate(network.nodes):
            inputs = [blur(self.values[each]) for each in node.inputs]
            self.values[index] = blur(self._forward(index, node, inputs, learnt.get(index)))
        logits = self.values[len(network.nodes) - 1].reshape(len(labels), -1)
        p = softmax(logits, axis=1)
        rows = np.arange(len(labels))
        loss = -np.log(p[rows, labels]).sum()
        p[rows, labels] -= 1
        back = {each: np.zeros_like(value) for each, value in self.values.items()}
        back[len(network.nodes) - 1] += p.reshape(back[len(network.nodes) - 1].shape)
        for index, node in reversed(list(enumerate(network.nodes))):
            found_here = self._backward(index, node, blur(back[index]), learnt.get(index), gradients.get(index))  # fmt: skip
            for value, gradient in zip(node.inputs, found_here, strict=True):
                back[value] += blur(gradient)
        return float(loss), found

    def _forward(self, index: int, node: Node, inputs: list[Flat], own: NodeWeights | None) -> Flat:
        a = inputs[0]
        bias = 0.0 if own is None or own.bias is None else self.blur(own.bias)[None, :, None, None]
        match node.module:
            case Linear():
                assert own is not None
                return (a[:, :, 0, 0] @ self.blur(own.weight).T)[:, :, None, None] + bias
            case Conv2d(_, kernel, stride, padding):
                assert own is not None
                weight = self.blur(own.weight)
                windows = _windows(_padded(a, padding, 0.0), kernel, stride, node)
                return sum(_times(weight[:, i, j], each) for (i, j), each in windows) + bias
            case BatchNorm2d(eps, momentum):
                assert own is not None
                mean, variance = self.blur(a.mean(axis=(0, 2, 3))), a.var(axis=(0, 2, 3))
                assert own.mean is not None
                # The executor sums squares about the running mean, so that is what it rounds.
                square = variance + (mean - own.mean) ** 2
                variance += self.blur(square) - square
                count = a.size // a.shape[1]
                unbiased = variance * count / max(1, count - 1)
                for running, now in ((own.mean, mean), (own.variance, unbiased)):
                    assert running is not None
                    running[...] = (1 - momentum) * running + momentum * now
                inverse = 1 / np.sqrt(variance + eps)
                hat = self.blur((a - _wide(mean)) * _wide(inverse))
                self.kept[index] = hat, inverse
                return hat * _wide(own.weight) + bias
            case MaxPool(kernel, stride, padding):
                windows = _windows(_padded(a, padding, -np.inf), kernel, stride, node)
                return np.max([each for _, each in windows], axis=0)
            case AvgPool(None):
                return a.mean(axis=(2, 3), keepdims=True)
            case AvgPool(kernel, stride, padding) if kernel is not None:
                windows = _windows(_padded(a, padding, 0.0), kernel, stride, node)
                return sum(each for _, each in windows) / (kernel[0] * kernel[1])
            case ReLU():
                return np.maximum(a, 0)
            case Sigmoid():
                return expit(a)
            case Flatten():
                return a.reshape(*a.shape[:1], -1, 1, 1)
            case Add():
                return a + inputs[1]
            case module:
                raise ValueError(f"module must be known, got {module}")

    def _backward(
        self, index: int, node: Node, g: Flat, own: NodeWeights | None, grad: NodeWeights | None
    ) -> list[Flat]:
        """Return the gradients of the inputs by ``g``, that of the output; set those of weights."""
        a, b = self.values[node.inputs[0]], self.values[index]
        if grad is not None and grad.bias is not None:
            grad.bias[...] = g.sum(axis=(0, 2, 3))
        match node.module:
            case Linear():
                assert own is not None
                assert grad is not None
                grad.weight[...] = g[:, :, 0, 0].T @ a[:, :, 0, 0]
                return [(g[:, :, 0, 0] @ self.blur(own.weight))[:, :, None, None]]
            case Conv2d(_, kernel, stride, padding):
                assert own is not None
                assert grad is not None
                weight, spread = self.blur(own.weight), np.zeros_like(_padded(a, padding, 0.0))
                windows = _windows(_padded(a, padding, 0.0), kernel, stride, node)
                places = _windows(spread, kernel, stride, node)
                for ((i, j), each), (_, place) in zip(windows, places, strict=True):
                    grad.weight[:, i, j] = np.einsum("nfhw,nchw->fc", g, each)
                    np.add(place, _times(weight[:, i, j].T, g), out=place)
                return [_inner(spread, a, padding)]
            case BatchNorm2d():
                assert own is not None
                assert grad is not None
                hat, inverse = self.kept[index]
                grad.weight[...] = (g * hat).sum(axis=(0, 2, 3))
                centred = g - _wide(self.blur(g.mean(axis=(0, 2, 3))))
                centred -= hat * _wide(self.blur((g * hat).mean(axis=(0, 2, 3))))
                return [centred * _wide(own.weight * inverse)]
            case MaxPool(kernel, stride, padding):
                spread = np.zeros_like(_padded(a, padding, 0.0))
                windows = _windows(_padded(a, padding, -np.inf), kernel, stride, node)
                first = np.argmax([each for _, each in windows], axis=0)
                for number, (_, place) in enumerate(_windows(spread, kernel, stride, node)):
                    np.add(place, g * (first == number), out=place)
                return [_inner(spread, a, padding)]
            case AvgPool(None):
                return [np.broadcast_to(g, a.shape) / (a.shape[2] * a.shape[3])]
            case AvgPool(kernel, stride, padding) if kernel is not None:
                spread = np.zeros_like(_padded(a, padding, 0.0))
                for _, place in _windows(spread, kernel, stride, node):
                    np.add(place, g / (kernel[0] * kernel[1]), out=place)
                return [_inner(spread, a, padding)]
            case ReLU():
                return [g * (b > 0)]
            case Sigmoid():
                return [g * b * (1 - b)]
            case Flatten():
                return [g.reshape(a.shape)]
            case Add():
                return [g, g]
            case module:
                raise ValueError(f"module must be known, got {module}")


def _wide(a: Flat) -> Flat:
    return a[None, :, None, None]


def _times(matrix: Flat, a: Flat) -> Flat:
    return np.einsum("fc,nchw->nfhw", matrix, a)


def _padded(a: Flat, padding: Pair, border: float) -> Flat:
    height, width = padding
    return np.pad(a, ((0, 0), (0, 0), (height,) * 2, (width,) * 2), constant_values=border)


def _inner(a: Flat, like: Flat, padding: Pair) -> Flat:
    height, width = padding
    return a[:, :, height : height + like.shape[2], width : width + like.shape[3]]


def _windows(a: Flat, kernel: Pair, stride: Pair, node: Node) -> list[tuple[Pair, Flat]]:
    """Return, for each place in the kernel, a view of what lies under it at every position."""
    _, height, width = node.shape
    (down, right), found = stride, []
    for i, j in product(range(kernel[0]), range(kernel[1])):
        view = a[:, :, i : i + down * height : down, j : j + right * width : right]
        found.append(((i, j), view[:, :, :height, :width]))
    return found
