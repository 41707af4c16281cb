"""A network's weights: all its parameters and running statistics, with views of each node's."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from exec.network.modules import BatchNorm2d, Conv2d, Linear
from exec.network.network import Network
from exec.nn.backend import DTYPES, Array


@dataclass(frozen=True, slots=True)
class NodeWeights:
    """What one node has learnt.

    ``weight`` is (units, inputs), (filters, kernel height, kernel width, channels) or, of a
    normalisation, its scales (channels,); ``bias`` (units,), of a normalisation its shifts, or
    None. ``mean`` and ``variance`` are the running statistics of a normalisation, (channels,).
    """

    weight: Array
    bias: Array | None
    mean: Array | None = None
    variance: Array | None = None


@dataclass(frozen=True, slots=True)
class NodeShape:
    """The shape of a node's ``weight``, and how many biases and running statistics it has."""

    weight: tuple[int, ...]
    num_biases: int
    num_stats: int = 0

    @property
    def num_weights(self) -> int:
        """How many weights it has."""
        return math.prod(self.weight)


def node_shape(network: Network, node: int) -> NodeShape:
    """Return the shapes of the parameters of ``node``, which must have some."""
    channels = network.shape(network.nodes[node].inputs[0])[0]
    match network.nodes[node].module:
        case Linear(units, has_bias):
            return NodeShape((units, channels), units * has_bias)
        case Conv2d(filters, kernel, has_bias=has_bias):
            return NodeShape((filters, *kernel, channels), filters * has_bias)
        case BatchNorm2d():
            return NodeShape((channels,), channels, 2 * channels)
        case module:
            raise ValueError(f"node must have parameters, got {module}")


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of ``network``, or numbers of the same shapes, such as velocities.

    ``parameters`` are flat, the first node first, each one's weights before its biases; ``stats``
    are its running means before its variances.
    """

    network: Network
    parameters: Array
    stats: Array

    def nodes(self) -> Iterator[tuple[int, NodeWeights]]:
        """Yield each node that has parameters, with views of its arrays."""
        start = stat = 0
        for node in range(len(self.network.nodes)):
            if not self.network.parameters(node):
                continue
            shape = node_shape(self.network, node)
            middle = start + shape.num_weights
            stop = middle + shape.num_biases
            weight = self.parameters[start:middle].reshape(shape.weight)
            bias = self.parameters[middle:stop] if shape.num_biases else None
            start = stop
            if shape.num_stats:
                half = stat + shape.num_stats // 2
                end = stat + shape.num_stats
                yield node, NodeWeights(weight, bias, self.stats[stat:half], self.stats[half:end])
                stat = end
            else:
                yield node, NodeWeights(weight, bias)


def empty_weights(network: Network, dtype: str) -> Weights:
    """Return zeros in the place of all weights of ``network``."""
    num_stats = sum(
        2 * node.shape[0] for node in network.nodes if isinstance(node.module, BatchNorm2d)
    )
    return Weights(network, *(np.zeros(size, DTYPES[dtype]) for size in (network.num_parameters, num_stats)))  # fmt: skip
