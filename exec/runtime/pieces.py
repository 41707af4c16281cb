"""Pieces: where in a rank's flat parameters, gradient or statistics the arrays of each node lie.

And which part of the whole network's arrays they are.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from exec.device.array import DeviceArray
from exec.network.modules import Conv2d, Linear
from exec.nn.backend import DTYPES, Array, Indices
from exec.nn.initial import initial_node
from exec.nn.weights import NodeWeights, Weights
from exec.plan.layout import Layout, layout_of
from exec.plan.shards import NodeShard
from exec.program.mesh import Mesh

Pairs = Iterator[tuple[NodeShard, Array, Array]]
Flat = TypeVar("Flat", Array, DeviceArray)


def pieces(layout: Layout, shard: NodeShard, flat: Flat) -> tuple[Flat, Flat | None]:
    """Return the weights of ``shard`` in ``flat`` (parameters or gradient), and its biases.

    Weights are (units, inputs), (filters, kernel height, kernel width, channels) or, of a
    normalisation, its scales (channels,) and shifts. Biases are None if the rank holds none.
    """
    start = layout.offsets[shard.node]
    middle = start + shard.num_weights
    weight = flat[start:middle].reshape(_shape(layout, shard))
    return weight, flat[middle : middle + shard.num_biases] if shard.num_biases else None


def stat_pieces(layout: Layout, shard: NodeShard, flat: Flat) -> tuple[Flat, Flat]:
    """Return the running means and variances of ``shard``, a normalisation, in ``flat``."""
    start = layout.stat_offsets[shard.node]
    middle = start + shard.num_outputs
    return flat[start:middle], flat[middle : middle + shard.num_outputs]


def _shape(layout: Layout, shard: NodeShard) -> tuple[int, ...]:
    match layout.network.nodes[shard.node].module:
        case Linear():
            return shard.num_outputs, shard.num_inputs
        case Conv2d(_, kernel):
            return shard.num_outputs, *kernel, shard.num_inputs
        case _:
            return (shard.num_weights,)


def parameter_pairs(layout: Layout, flat: Array, weights: Weights) -> Pairs:
    """Yield each array in a rank's ``flat`` parameters beside its place in the whole network's."""
    for node, whole in weights.nodes():
        if node in layout.nodes:
            yield from _node_pairs(layout, layout.shard(node), flat, whole)


def stat_positions(layout: Layout) -> Indices:
    """Return where each of a rank's running statistics is in those of the whole network."""
    network = layout.network
    starts = layout_of(network, Mesh(), 0, 0).stat_offsets
    found = [np.arange(0)]
    for shard in layout.shards:
        if shard.num_stats:
            means = starts[shard.node] + np.arange(shard.out_start, shard.out_stop)
            found += [means, means + network.shape(shard.node)[0]]
    return np.concatenate(found)


def mean_of(size: int, dtype: str, parts: Sequence[tuple[Indices | slice, Array]]) -> Array:
    """Return the mean in float64 of each element of ``parts``; equal ones keep their bits.

    A part is the positions of its elements, no two of them alike, and the elements.
    """
    first = np.zeros(size, DTYPES[dtype])
    total, count, differs = np.zeros(size), np.zeros(size, int), np.zeros(size, bool)
    for at, array in parts:
        first[at] = np.where(count[at] > 0, first[at], array)
        differs[at] |= first[at] != array
        total[at] += array
        count[at] += 1
    first[differs] = total[differs] / count[differs]
    return first


def share_of(layout: Layout, weights: Weights) -> tuple[Array, Array]:
    """Return the flat parameters and statistics that ``layout`` lists of ``weights``."""
    flat = np.zeros(layout.num_parameters, weights.parameters.dtype)
    for _, own, place in parameter_pairs(layout, flat, weights):
        own[...] = place
    return flat, weights.stats[stat_positions(layout)]


def initial_share(layout: Layout, seed: int, dtype: str, start: int = 0) -> tuple[Array, Array]:
    """Return the flat parameters and statistics of ``layout`` that a training starts from."""
    flat, stats = (np.zeros(size, DTYPES[dtype]) for size in (layout.num_parameters, layout.num_stats))  # fmt: skip
    for shard in layout.shards:
        if not layout.network.parameters(shard.node):
            continue
        whole = initial_node(layout.network, shard.node, seed, DTYPES[dtype], start)
        for _, own, place in _node_pairs(layout, shard, flat, whole):
            own[...] = place
        if whole.mean is not None and whole.variance is not None:
            channels = slice(shard.out_start, shard.out_stop)
            mean, variance = stat_pieces(layout, shard, stats)
            mean[...], variance[...] = whole.mean[channels], whole.variance[channels]
    return flat, stats


def _node_pairs(layout: Layout, shard: NodeShard, flat: Array, whole: NodeWeights) -> Pairs:
    weight, bias = pieces(layout, shard, flat)
    channels = slice(shard.out_start, shard.out_stop)
    place = whole.weight[channels]
    if place.ndim > 1:
        place = place[..., shard.in_start : shard.in_stop]
    yield shard, weight, place
    if bias is not None:
        assert whole.bias is not None
        yield shard, bias, whole.bias[channels]
