"""A network evaluated without the modules: plain sums over windows, samples first."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    Pair,
    ReLU,
    Sigmoid,
)
from exec.network.network import INPUT, Network
from exec.nn.weights import NodeWeights, Weights, empty_weights

Array = NDArray[np.float64]


def random_weights(network: Network, seed: int = 0, dtype: str = "float64") -> Weights:
    """Return normal weights, and running variances of about one."""
    weights = empty_weights(network, dtype)
    generator = np.random.Generator(np.random.PCG64(seed))
    weights.parameters[...] = generator.standard_normal(weights.parameters.size)
    for _, node in weights.nodes():
        if node.mean is not None and node.variance is not None:
            node.mean[...] = generator.standard_normal(node.mean.size)
            node.variance[...] = generator.uniform(0.5, 2.0, node.variance.size)
    return weights


def plain_logits(weights: Weights, images: Array) -> Array:
    """Return the logits, (samples, classes), of ``images``, (samples, features)."""
    network, learnt = weights.network, dict(weights.nodes())
    values = {INPUT: images.reshape(len(images), *network.image)}
    for index, node in enumerate(network.nodes):
        inputs = [values[value] for value in node.inputs]
        values[index] = _output(node.module, learnt.get(index), inputs)
        assert values[index].shape == (len(images), *node.shape)
    return values[len(network.nodes) - 1][:, :, 0, 0]


def _output(module: Module, own: NodeWeights | None, inputs: list[Array]) -> Array:
    a = inputs[0]
    match module:
        case Linear():
            assert own is not None
            found = np.einsum("nchw,fc->nfhw", a, own.weight, optimize=True)
            return found if own.bias is None else found + _by_channel(own.bias)
        case Conv2d(_, kernel, stride, padding):
            assert own is not None
            found = np.einsum("nchwij,fijc->nfhw", _windows(a, kernel, stride, padding, 0.0), own.weight, optimize=True)  # fmt: skip
            return found if own.bias is None else found + _by_channel(own.bias)
        case BatchNorm2d(eps):
            assert own is not None
            scale = own.weight / np.sqrt(own.variance + eps)
            return (a - _by_channel(own.mean)) * _by_channel(scale) + _by_channel(own.bias)
        case ReLU():
            return np.where(a > 0, a, 0.0)
        case Sigmoid():
            return 1 / (1 + np.exp(-a))
        case MaxPool(kernel, stride, padding):
            return _windows(a, kernel, stride, padding, -np.inf).max(axis=(4, 5))
        case AvgPool(None):
            return a.mean(axis=(2, 3), keepdims=True)
        case AvgPool(kernel, stride, padding):
            assert kernel is not None
            return _windows(a, kernel, stride, padding, 0.0).mean(axis=(4, 5))
        case Flatten():
            return a.reshape(len(a), -1, 1, 1)
        case Add():
            return inputs[0] + inputs[1]


def _by_channel(numbers: Array | None) -> Array:
    assert numbers is not None
    return numbers[:, None, None]


def _windows(a: Array, kernel: Pair, stride: Pair, padding: Pair, border: float) -> Array:
    """Return (samples, channels, rows, columns, kernel height, kernel width)."""
    (up, left), (down, right) = padding, stride
    padded = np.pad(a, ((0, 0), (0, 0), (up, up), (left, left)), constant_values=border)
    return sliding_window_view(padded, kernel, (2, 3))[:, :, ::down, ::right]
