"""The whole network's weights: gathered from the ranks that hold them, and shared out again."""

import numpy as np

from exec.nn.backend import Array
from exec.nn.weights import Weights, empty_weights
from exec.plan.shards import Split
from exec.program.ops import CollectiveKind
from exec.program.peers import Part
from exec.runtime.buffers import Buffers
from exec.runtime.pieces import mean_of, parameter_pairs, share_of, stat_positions
from exec.transport.protocol import Transport


def gather_weights(buffers: Buffers, transport: Transport, owned: Part | None) -> Weights:
    """Return the whole network on every rank: what each owns, summed with zeros.

    Running statistics are the mean of those of all ranks that train on samples of their own.
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
        weights.stats[...] = _gathered_stats(buffers, transport, weights.stats.size)
    return weights


def scatter_weights(buffers: Buffers, weights: Weights) -> None:
    """Set this rank's parameters and running statistics to its share of ``weights``."""
    flat, stats = share_of(buffers.layout, weights)
    buffers.set_parameters(flat)
    buffers.set_stats(stats)


def _gathered_stats(buffers: Buffers, transport: Transport, size: int) -> Array:
    """Return the mean of the running statistics of all ranks that have some."""
    stats, layout = buffers.stats, buffers.layout
    own = (stat_positions(layout), stats.copy()) if stats.size else (np.arange(0), stats)
    return mean_of(size, buffers.dtype, transport.gather_objects(own))
