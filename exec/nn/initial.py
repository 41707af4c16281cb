"""Initial weights, seeded by (seed, node), never by rank: every mesh starts from the same bits."""

import math
from typing import Any

import numpy as np

from exec.network.network import Network
from exec.network.rectified import feeds_relu
from exec.nn.backend import Array
from exec.nn.weights import NodeWeights, node_shape

_BLOCK = 1 << 14


def initial_weights(
    seed: int, index: int, shape: tuple[int, ...], dtype: type[np.floating[Any]], start: int = 0, *,
    is_rectified: bool = False,
) -> Array:  # fmt: skip
    """Return the weights of a dense layer or convolution, the ``index``-th of its network.

    ``shape`` is (units, inputs) or (filters, kernel height, kernel width, channels). Starts other
    than 0 are independent of each other. Uniform on +- sqrt(6 / (inputs + units)), after Glorot and
    Bengio, equation 16, where a convolution's inputs and units are those of its whole window; if a
    ReLU follows, on +- sqrt(6 / inputs), after He et al., equation 10. Drawn in float64 and rounded.

    Sources: X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS 2010; K. He et al., "Delving deep into rectifiers", ICCV 2015.
    """
    seeds = np.random.SeedSequence([seed, index, start] if start else [seed, index])
    generator = np.random.Generator(np.random.PCG64(seeds))
    units, *window, channels = shape
    inputs, outputs = channels * math.prod(window), units * math.prod(window)
    bound = (6.0 / (inputs if is_rectified else inputs + outputs)) ** 0.5
    weights = np.empty(math.prod(shape), dtype)
    for block in np.split(
        weights, range(_BLOCK, len(weights), _BLOCK)
    ):  # float64 of all takes room
        block[...] = generator.uniform(-bound, bound, len(block))
    return weights.reshape(shape)


def initial_node(
    network: Network, node: int, seed: int, dtype: type[np.floating[Any]], start: int = 0
) -> NodeWeights:
    """Return what the whole of ``node``, which has parameters, starts from.

    Biases and shifts are 0, scales 1; running means 0 and variances 1.
    """
    shape = node_shape(network, node)
    bias = np.zeros(shape.num_biases, dtype) if shape.num_biases else None
    if shape.num_stats:
        ones = np.ones(shape.weight, dtype)
        return NodeWeights(ones, bias, np.zeros(shape.weight, dtype), ones.copy())
    weight = initial_weights(
        seed, network.seed_index[node], shape.weight, dtype, start,
        is_rectified=feeds_relu(network, node),
    )  # fmt: skip
    return NodeWeights(weight, bias)
