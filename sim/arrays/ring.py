"""The kernel of a ring: every step one addition and one maximum over all its ranks.

In step k the rank at place j sends the chunk of place ``j + first - k`` to the next one, takes that
of place ``j + first - 1 - k``, perhaps adds it to its own, and waits until what it sent is there:

    a_j = t_j + move(j + first - k)        t_j = max(a_j, a_(j-1)) + add(j + first - 1 - k)

The chunk that is added is the one that is sent next, so both are one table; and written twice, one
after the other, it holds the costs of all places in step k as one slice. Places come first in
memory and replicas last, so that neighbours are whole rows apart and every operand is one run of
memory; as many replicas are done at once as stay in a core's second cache.

Source: P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", J. Parallel Distrib. Comput. 69 (2009) 117-124.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.arrays.pieces import Bools, Floats

_BLOCK = 1 << 13  # times; there are four arrays of so many


@dataclass(frozen=True, slots=True)
class Table:
    """What a message takes, and the sum after it, by the place that its chunk is named after.

    Both are (1 or rings, places); they are those of the ranks ``where``, (1 or replicas, 1 or rings,
    places), or of all.
    """

    move_s: Floats
    add_s: Floats
    where: Bools | None = None


def play_ring(times_s: Floats, tables: Sequence[Table], num_steps: int, first: int, *, is_held: bool) -> Floats:  # fmt: skip
    """Return when the ranks are through, who begin at ``times_s``: both (replicas, rings, places).

    Of ``tables`` a later one counts where several do. With ``is_held`` a message leaves when its
    receiver is in the same step too.
    """
    ends_s = np.empty(times_s.shape)
    at_once = max(1, _BLOCK // (times_s.shape[1] * times_s.shape[2]))
    for start in range(0, len(times_s), at_once):
        rows = slice(start, start + at_once)
        block = np.array(times_s[rows].T, order="C")
        num_rows = block.shape[2]
        masks = [_turned(table.where, rows, num_rows) for table in tables]
        moves = [_twice(table.move_s, block) for table in tables]
        sums = [_twice(table.add_s, block) for table in tables]
        if is_held:
            block = _held(block, moves, sums, masks, num_steps, first)
        else:
            _play(block, moves, sums, masks, num_steps, first)
        ends_s[rows] = block.T
    return ends_s


def _play(t: Floats, moves: list[Floats], sums: list[Floats], masks: list[Bools | None], num_steps: int, first: int) -> None:  # fmt: skip
    num_places = len(t)
    if t.size == num_places:  # one run of memory: less to see to in each step
        t = t.reshape(-1)
        moves, sums = [each.reshape(-1) for each in moves], [each.reshape(-1) for each in sums]
        masks = [None if each is None else each.reshape(-1) for each in masks]
    ends = np.empty((num_places + 1, *t.shape[1:]))
    own, other, last, wrapped = ends[1:], ends[:-1], ends[-1:], ends[:1]
    both = [move + add for move, add in zip(moves, sums, strict=True)]
    add, maximum = np.add, np.maximum
    at = first % num_places
    if len(moves) == 1:
        cost, then = moves[0], both[0]
        for _ in range(num_steps):
            add(t, cost[at : at + num_places], out=own)
            wrapped[:] = last
            maximum(own, other, out=t)
            cost = then
            at = at - 1 if at else num_places - 1
    else:
        costs = moves
        for _ in range(num_steps):
            for cost, those in zip(costs, masks, strict=True):
                add(t, cost[at : at + num_places], out=own, where=True if those is None else those)
            wrapped[:] = last
            maximum(own, other, out=t)
            costs = both
            at = at - 1 if at else num_places - 1
    _add(t, sums, masks, at)


def _held(t: Floats, moves: list[Floats], sums: list[Floats], masks: list[Bools | None], num_steps: int, first: int) -> Floats:  # fmt: skip
    num_places = len(t)
    for step in range(num_steps):
        ends_s = np.maximum(t, np.roll(t, -1, 0))
        _add(ends_s, moves, masks, (first - step) % num_places)
        t = np.maximum(ends_s, np.roll(ends_s, 1, 0))
        _add(t, sums, masks, (first - 1 - step) % num_places)
    return t


def _twice(costs_s: Floats, block: Floats) -> Floats:
    """Return the costs (rings, places) as (2 places, rings, replicas), twice all places."""
    shape = (2 * block.shape[0], *block.shape[1:])
    doubled = np.concatenate([costs_s, costs_s], axis=-1).T[..., None]
    return np.ascontiguousarray(np.broadcast_to(doubled, shape))


def _turned(mask: Bools | None, rows: slice, num_rows: int) -> Bools | None:
    """Return ``mask`` as (places, 1 or rings, replicas)."""
    if mask is None:
        return None
    these = mask if len(mask) == 1 else mask[rows]
    return np.ascontiguousarray(np.broadcast_to(these.T, (*these.T.shape[:2], num_rows)))


def _add(t: Floats, costs: list[Floats], masks: list[Bools | None], at: int) -> None:
    """Add to ``t`` in place what it costs from place ``at`` on."""
    num_places = len(t)
    before = t if len(costs) == 1 else t.copy()
    for cost, those in zip(costs, masks, strict=True):
        np.add(before, cost[at : at + num_places], out=t, where=True if those is None else those)
