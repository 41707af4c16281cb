"""Pieces: where in a rank's flat parameters, gradient or statistics the arrays of each node lie.

And which part of the whole network's arrays they are.
"""

from collections.abc import Iterator

import numpy as np

from exec.network.modules import Conv2d, Linear
from exec.nn.backend import DTYPES, Array
from exec.nn.initial import initial_node
from exec.nn.weights import NodeWeights, Weights
from exec.plan.layout import Layout
from exec.plan.shards import NodeShard

Pairs = Iterator[tuple[NodeShard, Array, Array]]


def pieces(layout: Layout, shard: NodeShard, flat: Array) -> tuple[Array, Array | None]:
    """Return the weights of ``shard`` in ``flat`` (parameters or gradient), and its biases.

    Weights are (units, inputs), (filters, kernel height, kernel width, channels) or, of a
    normalisation, its scales (channels,) and shifts. Biases are None if the rank holds none.
    """
    start = layout.offsets[shard.node]
    middle = start + shard.num_weights
    weight = flat[start:middle].reshape(_shape(layout, shard))
    return weight, flat[middle : middle + shard.num_biases] if shard.num_biases else None


def stat_pieces(layout: Layout, shard: NodeShard, flat: Array) -> tuple[Array, Array]:
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
    for shard, whole in _held(layout, weights):
        yield from _parameters(layout, shard, flat, whole)


def stat_pairs(layout: Layout, flat: Array, weights: Weights) -> Pairs:
    """Yield each array in a rank's ``flat`` statistics beside its place in the whole network's."""
    for shard, whole in _held(layout, weights):
        yield from _stats(layout, shard, flat, whole)


def share_of(layout: Layout, weights: Weights) -> tuple[Array, Array]:
    """Return the flat parameters and statistics that ``layout`` lists of ``weights``."""
    flat, stats = _empty(layout, weights.parameters.dtype.name)
    for _, own, place in parameter_pairs(layout, flat, weights):
        own[...] = place
    for _, own, place in stat_pairs(layout, stats, weights):
        own[...] = place
    return flat, stats


def initial_share(layout: Layout, seed: int, dtype: str, start: int = 0) -> tuple[Array, Array]:
    """Return the flat parameters and statistics of ``layout`` that a training starts from."""
    flat, stats = _empty(layout, dtype)
    for shard in layout.shards:
        if not layout.network.parameters(shard.node):
            continue
        whole = initial_node(layout.network, shard.node, seed, DTYPES[dtype], start)
        for _, own, place in _parameters(layout, shard, flat, whole):
            own[...] = place
        for _, own, place in _stats(layout, shard, stats, whole):
            own[...] = place
    return flat, stats


def _empty(layout: Layout, dtype: str) -> tuple[Array, Array]:
    sizes = layout.num_parameters, layout.num_stats
    flat, stats = (np.zeros(size, DTYPES[dtype]) for size in sizes)
    return flat, stats


def _held(layout: Layout, weights: Weights) -> Iterator[tuple[NodeShard, NodeWeights]]:
    for node, whole in weights.nodes():
        if node in layout.nodes:
            yield layout.shard(node), whole


def _parameters(layout: Layout, shard: NodeShard, flat: Array, whole: NodeWeights) -> Pairs:
    weight, bias = pieces(layout, shard, flat)
    channels = slice(shard.out_start, shard.out_stop)
    place = whole.weight[channels]
    if place.ndim > 1:
        place = place[..., shard.in_start : shard.in_stop]
    yield shard, weight, place
    if bias is not None:
        assert whole.bias is not None
        yield shard, bias, whole.bias[channels]


def _stats(layout: Layout, shard: NodeShard, flat: Array, whole: NodeWeights) -> Pairs:
    if whole.mean is not None and whole.variance is not None:
        channels = slice(shard.out_start, shard.out_stop)
        for own, place in zip(
            stat_pieces(layout, shard, flat), (whole.mean, whole.variance), strict=True
        ):
            yield shard, own, place[channels]
