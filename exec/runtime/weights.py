"""The whole network's weights: gathered from the ranks that hold them, and shared out again."""

import numpy as np

from exec.nn.backend import Array
from exec.nn.weights import Weights, empty_weights
from exec.plan.shards import Split
from exec.program.ops import CollectiveKind
from exec.program.peers import Part
from exec.runtime.buffers import Buffers
from exec.runtime.pieces import initial_share, parameter_pairs, share_of, stat_pairs
from exec.transport.protocol import Transport


def gather_weights(buffers: Buffers, transport: Transport, owned: Part | None) -> Weights:
    """Return the whole network on every rank: what each owns, summed with zeros.

    Running statistics are the mean of those of all replicas that train.
    """
    layout = buffers.layout
    weights = empty_weights(layout.network, buffers.dtype)
    if owned is not None and not buffers.is_whole:
        piece = buffers.parameters
        weights.parameters[owned.start : owned.start + piece.size] = piece
    elif owned is not None:
        for shard, own, place in parameter_pairs(layout, buffers.parameters, weights):
            # What is whole on every rank of a tp group, only the first brings.
            if shard.split is not Split.FULL or layout.tp_rank == 0:
                place[...] = own
    transport.run_collective(CollectiveKind.ALLREDUCE, weights.parameters, [], 0)
    if weights.stats.size:
        _gather_stats(buffers, transport, weights)
    return weights


def initialise_weights(buffers: Buffers, seed: int, start: int = 0) -> None:
    """Set this rank's parameters and running statistics to its share of the seeded ones."""
    _set(buffers, *initial_share(buffers.layout, seed, buffers.dtype, start))


def scatter_weights(buffers: Buffers, weights: Weights) -> None:
    """Set this rank's parameters and running statistics to its share of ``weights``."""
    _set(buffers, *share_of(buffers.layout, weights))


def _set(buffers: Buffers, flat: Array, stats: Array) -> None:
    buffers.set_parameters(flat)
    if buffers.stats.size:
        buffers.stats[...] = stats


def _gather_stats(buffers: Buffers, transport: Transport, weights: Weights) -> None:
    """Set the running statistics of ``weights`` to the mean, in float64, of those that ranks hold."""
    totals = np.zeros((2, weights.stats.size))  # the sums, and of how many they are
    for which, flat in enumerate((buffers.stats, np.ones_like(buffers.stats))):
        if flat.size:
            found = Weights(weights.network, weights.parameters, totals[which])
            for _, own, place in stat_pairs(buffers.layout, flat, found):
                place[...] = own
    flat_totals = totals.reshape(-1)
    transport.run_collective(CollectiveKind.ALLREDUCE, flat_totals, [], 0)
    weights.stats[...] = totals[0] / totals[1]
