"""Links: whether flows meet on them. Where none do, each takes the time that it takes alone.

Flows of one op that share both their links begin together and are equally large, or this raises;
so they end together too, and count as one.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from sim.arrays.irregular import IrregularError
from sim.arrays.pieces import Bools, Floats, Ints
from sim.arrays.ways import Way, Ways

_ROUNDING = 1e-13  # relative; what comes to the same moment by two ways is that moment

Flow = tuple[Way, Floats, Floats]
"""When the messages of a way begin to flow, and when they end: (replicas, dp, pp, tp)."""


def check_together(way: Way, start_s: Floats, transfer_s: Floats) -> None:
    """Raise :class:`IrregularError` unless those that share links begin together and are alike."""
    if not way.is_shared:
        return
    pairs = (way.up * (int(way.down.max()) + 1) + way.down).ravel()
    order = np.argsort(pairs, kind="stable")
    is_same = np.diff(pairs[order]) == 0
    for values in (start_s, transfer_s):
        if max(values.shape[1:]) == 1:
            continue
        flat = np.broadcast_to(values, (values.shape[0], *way.up.shape)).reshape(len(values), -1)
        if (np.diff(flat[:, order], axis=1)[:, is_same] != 0).any():
            raise IrregularError(f"ranks of a node that play {way.piece.role.name} share its link unevenly")  # fmt: skip


def check_meetings(flows: list[Flow], ways: Ways) -> None:
    """Raise :class:`IrregularError` if two flows of different ways are on a link at the same time."""
    of_way: dict[int, list[Flow]] = defaultdict(list)
    for flow in flows:
        of_way[id(flow[0])].append(flow)
    users = np.zeros(ways.num_links, np.intp)
    for (way, _, _), *_ in of_way.values():
        for links in (way.up, way.down):
            users[np.unique(links)] += 1
    for (way, _, _), *_ in of_way.values():
        if way.others:
            for links in (way.up, way.down):
                users[np.unique(links)] += 1
    is_busy = users > 1
    if not is_busy.any():
        return
    for is_down in (False, True):
        _check(list(of_way.values()), ways, is_busy, is_down=is_down)


def _check(of_way: list[list[Flow]], ways: Ways, is_busy: Bools, *, is_down: bool) -> None:
    links: list[Ints] = []
    pairs: list[Ints] = []
    shares: list[Ints] = []  # how many of this op share a link, and with how many they are said to
    kinds: list[Ints] = []
    starts: list[Floats] = []
    ends: list[Floats] = []
    for number, flows in enumerate(of_way):
        way = flows[0][0]
        ids = (way.down if is_down else way.up).ravel()
        pair = (way.up * ways.num_links + way.down).ravel()
        _, first, counts = np.unique(
            ids, return_index=True, return_counts=True
        )  # one for all that share it
        is_here = is_busy[ids[first]]
        at = first[is_here]
        if not len(at):
            continue
        for _, start_s, end_s in flows:
            links.append(ids[at])
            pairs.append(pair[at])
            shares.append(np.stack([counts[is_here], way.sharers.ravel()[at]]))
            kinds.append(np.full(len(at), number))
            for into, times_s in ((starts, start_s), (ends, end_s)):
                shape = (times_s.shape[0], *way.up.shape)
                into.append(np.broadcast_to(times_s, shape).reshape(len(times_s), -1)[:, at])
    if not links:
        return
    own, sharers = np.concatenate(shares, axis=1)
    link, pair, kind = map(np.concatenate, (links, pairs, kinds))
    table = _Table(link, pair, kind, own, sharers)
    for replica in range(max(map(len, starts))):
        start_s, end_s = (
            np.concatenate([each[min(replica, len(each) - 1)] for each in times])
            for times in (starts, ends)
        )
        table.check(start_s, end_s, ways)


@dataclass(frozen=True, slots=True)
class _Table:
    """Flows on links: a row for all of one op that share a link, of which there are ``own``.

    ``sharers`` is with how many they were taken to share it.
    """

    link: Ints
    pair: Ints
    kind: Ints
    own: Ints
    sharers: Ints

    def check(self, start_s: Floats, end_s: Floats, ways: Ways) -> None:
        """Raise unless flows share links with those that they were taken to, and no others."""
        order = np.lexsort((self.pair, end_s, start_s, self.link))
        link, start_s, end_s = self.link[order], start_s[order], end_s[order]
        is_new = np.ones(len(order), np.bool_)
        is_new[1:] = np.any([
            np.diff(each) != 0 for each in (link, start_s, end_s, self.pair[order])
        ], axis=0)  # fmt: skip
        first = np.flatnonzero(is_new)
        together = np.add.reduceat(self.own[order], first)
        wrong = np.repeat(together, np.diff([*first, len(order)])) != self.sharers[order]
        is_next = (np.diff(link) == 0) & (np.diff(self.kind[order]) != 0) & is_new[1:]
        wrong[1:] |= is_next & (start_s[1:] < end_s[:-1] * (1.0 - _ROUNDING))
        if wrong.any():
            raise IrregularError(f"two flows meet on {ways.link_name(int(link[wrong][0]))}")
