"""Pieces: where in a rank's flat parameters, gradient or statistics the arrays of each node lie."""

from exec.network.modules import Conv2d, Linear
from exec.nn.backend import Array
from exec.plan.layout import Layout
from exec.plan.shards import NodeShard


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
