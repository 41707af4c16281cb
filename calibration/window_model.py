"""Windows among any number of ranks: what sums and barriers take, from the numbers measured.

The ranks that add up at once share the memory's bandwidth, so a sum takes longer among more of them,
until the memory is busy all the time; from there on in proportion to their number. Where that is, is
measured. Between two numbers that were measured times are linear in the number. Beyond the largest,
K, nothing tells whether the memory was busy yet: a sum of the same bytes takes between as long as
among K, and in proportion longer. It is taken to grow as the last two numbers say, or where there is
but one not at all, with an uncertainty that is assumed: the standard deviation of what is anywhere
between the two, 0.29 for twice the ranks (1 / sqrt(12)).
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from calibration.machine import Link

SIGMA_A_DOUBLING = 1.0 / math.sqrt(12.0)


@dataclass(frozen=True, slots=True)
class WindowCost:
    """A sum's ``time_s``, its relative uncertainty, and among how many ranks it was measured at most."""

    time_s: float
    rel_sigma: float
    most_ranks: int
    is_within: bool  # the bytes that were measured


def window_sum(link: Link, nbytes: float, ranks: int) -> WindowCost | None:
    """Return what it takes each of ``ranks`` ranks of a node to add up ``nbytes`` of another's window.

    None if it was not measured.
    """
    if link.window is None:
        return None
    curves = {2: link.window, **link.windows}
    counts, ranks = sorted(curves), max(2, ranks)
    times_s = [curves[count].time_s(nbytes) for count in counts]
    near = [curves[count] for count in _neighbours(counts, ranks)]
    sigma = max(curve.rel_sigma for curve in near)
    if ranks > counts[-1]:
        sigma = math.hypot(sigma, SIGMA_A_DOUBLING * math.log2(ranks / counts[-1]))
    is_within = all(not nbytes or curve.nbytes.holds(nbytes) for curve in near)
    return WindowCost(_at(counts, times_s, ranks), sigma, counts[-1], is_within)


def node_barrier_s(link: Link, ranks: int) -> float | None:
    """Return the time of a barrier of ``ranks`` ranks of a node, or None if none was measured.

    Beyond those measured it takes as many more rounds as log2 says.
    """
    if link.barrier_s is None:
        return None
    known = {2: link.barrier_s, **link.barriers_s}
    counts, most = sorted(known), max(known)
    if ranks > most:
        return known[most] * math.ceil(math.log2(ranks)) / math.ceil(math.log2(most))
    return _at(counts, [known[count] for count in counts], ranks)


def _at(counts: Sequence[int], values: Sequence[float], ranks: int) -> float:
    """Return the value at ``ranks``: linear between ``counts``, and on from the last two, never falling."""
    at = max(1, min(bisect_left(counts, ranks), len(counts) - 1))
    if len(counts) == 1:
        return values[0]
    (low, high), (first, second) = counts[at - 1 : at + 1], values[at - 1 : at + 1]
    slope = (second - first) / (high - low)
    return (
        second + max(0.0, slope) * (ranks - high) if ranks > high else first + slope * (ranks - low)
    )


def _neighbours(counts: Sequence[int], ranks: int) -> Sequence[int]:
    """Return the counts on both sides of ``ranks``, or the last."""
    at = bisect_left(counts, ranks)
    if at == len(counts):
        return counts[-1:]
    return counts[at : at + 1] if counts[at] == ranks else counts[at - 1 : at + 1]
