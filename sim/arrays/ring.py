"""The kernel of a ring: every step one addition and one maximum over all its ranks.

In step k the rank at place j sends the chunk of place ``j + first - k`` to the next one, takes that
of place ``j + first - 1 - k``, perhaps adds it to its own, and waits until what it sent is there:

    a_j = t_j + move(j + first - k)        t_j = max(a_j, a_(j-1)) + add(j + first - 1 - k)

The chunk that is added is the one that is sent next, so both are one table; and written twice, one
after the other, it holds the costs of all places in step k as one slice.

Source: P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", J. Parallel Distrib. Comput. 69 (2009) 117-124.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.arrays.pieces import Bools, Floats


@dataclass(frozen=True, slots=True)
class Table:
    """What a message takes, and the sum after it, by the place that its chunk is named after.

    Both are (1 or rings, places); they are those of the ranks ``where`` (rings, places), or of all.
    """

    move_s: Floats
    add_s: Floats
    where: Bools | None = None


def play_ring(times_s: Floats, tables: Sequence[Table], num_steps: int, first: int, *, is_held: bool) -> Floats:  # fmt: skip
    """Return when the ranks are through, who begin at ``times_s``: both (replicas, rings, places).

    Of ``tables`` a later one counts where several do. With ``is_held`` a message leaves when its
    receiver is in the same step too.
    """
    if is_held:
        return _held(times_s, tables, num_steps, first)
    num_places = times_s.shape[-1]
    t = times_s.copy()
    ends = np.empty((*t.shape[:-1], num_places + 1))
    own, other, last, wrapped = ends[..., 1:], ends[..., :-1], ends[..., -1], ends[..., 0]
    moves = [_twice(table.move_s) for table in tables]
    sums = [_twice(table.add_s) for table in tables]
    both = [move + add for move, add in zip(moves, sums, strict=True)]
    where = [table.where for table in tables]
    add, maximum = np.add, np.maximum
    costs = moves
    if len(tables) == 1:
        cost = moves[0]
        for step in range(num_steps):
            at = (first - step) % num_places
            add(t, cost[..., at : at + num_places], own)
            wrapped[...] = last
            maximum(own, other, t)
            cost = both[0]
    else:
        for step in range(num_steps):
            at = (first - step) % num_places
            for cost, those in zip(costs, where, strict=True):
                add(t, cost[..., at : at + num_places], own, where=True if those is None else those)
            wrapped[...] = last
            maximum(own, other, t)
            costs = both
    _add(t, sums, where, (first - num_steps) % num_places)
    return t


def _held(times_s: Floats, tables: Sequence[Table], num_steps: int, first: int) -> Floats:
    num_places = times_s.shape[-1]
    t = times_s.copy()
    moves = [_twice(table.move_s) for table in tables]
    sums = [_twice(table.add_s) for table in tables]
    where = [table.where for table in tables]
    for step in range(num_steps):
        ends_s = np.maximum(t, np.roll(t, -1, -1))
        _add(ends_s, moves, where, (first - step) % num_places)
        t = np.maximum(ends_s, np.roll(ends_s, 1, -1))
        _add(t, sums, where, (first - 1 - step) % num_places)
    return t


def _twice(costs: Floats) -> Floats:
    return np.concatenate([costs, costs], axis=-1)


def _add(t: Floats, costs: list[Floats], where: list[Bools | None], at: int) -> None:
    """Add to ``t`` in place what it costs from place ``at`` on."""
    num_places = t.shape[-1]
    before = t if len(costs) == 1 else t.copy()
    for cost, those in zip(costs, where, strict=True):
        np.add(before, cost[..., at : at + num_places], t, where=True if those is None else those)
