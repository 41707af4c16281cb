"""Closed forms: the time of a collective from the cost of one message and one sum.

p ranks, n bytes, a message of b bytes costs alpha + beta b, adding b bytes costs gamma b. The
forms assume equal ranks that start together, full-duplex links, and p a power of two for the
doubling algorithms and the tree; then they are exact. Where p does not divide the buffer, the
largest chunk counts. Where groups share a node's link, or nodes an uplink, all are counted as if
they sent at once; of unequal links the slowest counts in every step.

Source: R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication
operations in MPICH", Int. J. High Perform. Comput. Appl. 19 (2005) 49-66, section 4; for the
ring P. Patarasuk and X. Yuan, J. Parallel Distrib. Comput. 69 (2009) 117-124. The form of the
hierarchical algorithm is our own.
"""

import math
from collections.abc import Callable

import numpy as np

from calibration.machine import Curve
from exec.program.ops import Algorithm
from exec.program.peers import split_start
from sim.fabric import Pattern

Hop = Callable[[int, int, Pattern], float]
"""Time of a message: ``(elements, distance, pattern)``."""
Sum = Callable[[int], float]
"""Time to add so many elements."""
Message = Callable[[int], float]
"""Time of a message of so many elements."""


def library_allreduce_s(nbytes: int, ranks: int, pair: Curve, sharers: float = 1) -> float:
    """Return the time of the library's all-reduce of ``nbytes`` over ``ranks`` ranks.

    MPI libraries take few steps for small buffers and little traffic for large ones:

        t = ceil(log2 p) alpha_2 + 2 (p - 1) / p beta_2 n

    where ``alpha_2 + beta_2 n`` is ``pair``, what two ranks take, its protocol knees included.
    ``sharers`` groups share the link. It is the lower envelope of recursive doubling and of
    halving-doubling in Thakur et al., with the library's own constants.
    """
    return sum(library_parts_s(nbytes, ranks, pair, sharers))


def library_parts_s(
    nbytes: int, ranks: int, pair: Curve, sharers: float = 1
) -> tuple[float, float]:
    """Return the two terms of :func:`library_allreduce_s`: latency and transfer."""
    alpha_s, beta_s_per_byte = pair.at(nbytes)
    traffic = 2.0 * (ranks - 1) / ranks * nbytes
    return math.ceil(math.log2(ranks)) * alpha_s, traffic * beta_s_per_byte * sharers


def pipelined_allreduce_s(inside_s: tuple[float, float], between_s: tuple[float, float]) -> float:
    """Return the time of an all-reduce by a library that works on both tiers at once, as NCCL does.

    Its chunks are summed inside a node, then between nodes, one behind the other, so the latencies
    of the tiers add up and of their transfers the longer counts:

        t = alpha_i + alpha + max(beta_i n, beta n)

    Each pair is the latency and the transfer of :func:`library_allreduce_s` on its tier. The start
    of the pipeline is left out. Source: S. Jeaugey, "Massively scale your deep learning training
    with NCCL 2.4", NVIDIA Technical Blog (2019), on trees between nodes and chains inside them.
    """
    return inside_s[0] + between_s[0] + larger(inside_s[1], between_s[1])


def larger(time_s: float, other_s: float) -> float:
    """Return the larger of two, of each Machine where several are stacked: see :mod:`sim.grid_links`."""
    return max(time_s, other_s) if isinstance(time_s, float) else np.maximum(time_s, other_s)


def smaller(time_s: float, other_s: float) -> float:
    """Return the smaller of two, as :func:`larger`."""
    return min(time_s, other_s) if isinstance(time_s, float) else np.minimum(time_s, other_s)


def allreduce_s(algorithm: Algorithm, elements: int, ranks: int, hop: Hop, add: Sum) -> float:
    """Return the time of an expanded all-reduce of ``elements`` over ``ranks`` ranks."""
    match algorithm:
        case Algorithm.RING:
            return _ring_s(elements, ranks, hop, add)
        case Algorithm.RECURSIVE_DOUBLING:
            return _folded_s(elements, ranks, hop, add, _doubling_s)
        case Algorithm.HALVING_DOUBLING:
            return _folded_s(elements, ranks, hop, add, _halving_s)
        case Algorithm.BINOMIAL_TREE:
            return _tree_s(elements, ranks, hop, add)
        case Algorithm.LIBRARY | Algorithm.HIERARCHICAL | Algorithm.SHARED_WINDOW:
            raise ValueError(f"an all-reduce of algorithm {algorithm} has a form of its own")


def hierarchical_s(
    elements: int, ranks: int, node_size: int, inside: Message, between: Message, add: Sum,
    *, is_between: bool = False,
) -> float:  # fmt: skip
    """Return the time of a hierarchical all-reduce over nodes of ``node_size`` ranks of the group.

    For g ranks on each of N = p / g nodes, inside which a message of b bytes costs
    alpha_i + beta_i b, and R ranks that send over a node's link at once, each at an R-th of its
    bandwidth:

        t = (g - 1) (2 (alpha_i + beta_i n / g) + gamma n / g)
            + (N - 1) (2 (alpha + R beta n / p) + gamma n / p)

    Exact for equal ranks and equal parts, for any p and g: all R messages begin and end together. If it
    ``is_between`` nodes only the second term is left: windows do what the first is for.
    """
    nodes = ranks // node_size
    part, share = _largest(elements, ranks), split_start(elements, ranks, nodes)
    inside_s = 0.0 if is_between else (node_size - 1) * (2.0 * inside(share) + add(share))
    return inside_s + (nodes - 1) * (2.0 * between(part) + add(part)) if nodes > 1 else inside_s


def allgather_s(elements: int, unit: int, ranks: int, hop: Hop) -> float:
    """Return the time of a ring all-gather: p - 1 steps of the largest share."""
    return (ranks - 1) * hop(_largest(elements, ranks, unit), 1, Pattern.SHIFT)


def _ring_s(elements: int, ranks: int, hop: Hop, add: Sum) -> float:
    """``(p - 1) (2 (alpha + beta n / p) + gamma n / p)``."""
    chunk = _largest(elements, ranks)
    return (ranks - 1) * (2.0 * hop(chunk, 1, Pattern.SHIFT) + add(chunk))


def _doubling_s(elements: int, ranks: int, hop: Hop, add: Sum) -> float:
    """``log2 p (alpha + beta n + gamma n)``."""
    return sum(
        hop(elements, distance, Pattern.PAIRS) + add(elements) for distance in _distances(ranks)
    )


def _halving_s(elements: int, ranks: int, hop: Hop, add: Sum) -> float:
    """``2 log2 p alpha + (p - 1) / p (2 beta n + gamma n)``."""
    total_s = 0.0
    for distance in _distances(ranks):
        block = _largest(elements, ranks) * distance
        total_s += 2.0 * hop(block, distance, Pattern.PAIRS) + add(block)
    return total_s


def _tree_s(elements: int, ranks: int, hop: Hop, add: Sum) -> float:
    """``ceil(log2 p) (2 (alpha + beta n) + gamma n)``."""
    return sum(
        2.0 * hop(elements, distance, Pattern.TREE) + add(elements)
        for distance in _distances(ranks)
    )


def _folded_s(
    elements: int, ranks: int, hop: Hop, add: Sum, core: Callable[[int, int, Hop, Sum], float]
) -> float:
    """Return ``core`` on the largest power of two, and one fold and unfold if ranks are left."""
    size = 1 << (ranks.bit_length() - 1)
    total_s = core(elements, size, hop, add)
    if size < ranks:
        total_s += 2.0 * hop(elements, size, Pattern.SHIFT) + add(elements)
    return total_s


def _distances(ranks: int) -> list[int]:
    return [1 << i for i in range((ranks - 1).bit_length())]


def _largest(elements: int, parts: int, unit: int = 1) -> int:
    return -(-(elements // unit) // parts) * unit
