"""Mail: what the ranks of a piece have sent, all at once, and when it is where it goes.

Messages of one rank to another go one after the other, in the order in which their latencies end.
So long as no others are on their links, a message's flow takes a known time from then on.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sim.arrays.irregular import IrregularError
from sim.arrays.links import check_together
from sim.arrays.pieces import Bools, Floats, Group, Ints
from sim.arrays.ways import Price, Way

Edge = tuple[Floats, Floats]
"""When the latency of a channel's latest message ended, and when the message did."""


@dataclass(slots=True, eq=False)
class Posted:
    """What the ranks of a piece sent by one op; times are (replicas, dp, pp, tp).

    ``end_s`` is known once all that waits for its receive is received. ``is_left`` says what is not
    received yet, along the way's axis.
    """

    way: Way
    price: Price
    posted_s: Floats
    is_left: Bools
    start_s: Floats
    end_s: Floats | None = None
    is_open: Bools | None = None  # along the axis: held until it is received


@dataclass(frozen=True, slots=True)
class Taken:
    """Of what a receive takes, the messages of one op: the receivers' places and the senders'."""

    posted: Posted
    own: Ints
    theirs: Ints


@dataclass(slots=True)
class Mail:
    """All messages on their way, and those that are to be looked at for meetings: ``flows``."""

    waiting: dict[tuple[int, int], list[Posted]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by piece and tag
    flows: list[tuple[Way, Floats, Floats]] = field(default_factory=list)
    last_s: Floats = field(default_factory=lambda: np.zeros(1))
    edges: dict[int, Edge] = field(default_factory=dict)  # by the way's identity
    num_held: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def post(self, way: Way, price: Price, tag: int, now_s: Floats) -> Posted:
        """Send a message from each rank of the way's piece at ``now_s``."""
        is_left = np.ones(len(way.coordinates), np.bool_)
        posted = Posted(way, price, now_s, is_left, now_s)
        self.waiting[way.piece.index, tag].append(posted)
        if price.is_held.any():
            posted.is_open = is_left.copy()
            self.num_held[id(way)] += 1
        else:
            if self.num_held[id(way)]:
                raise IrregularError(f"a message of {way.piece.role.name} may overtake a held one")
            self._carry(posted, now_s)
        return posted

    def find(self, groups: list[Group], axis: int, own: Ints, tag: int) -> list[Taken] | None:
        """Return the messages that the ranks at ``own`` take from ``groups``; None until all are sent."""
        found: list[Taken] = []
        for group in groups:
            places, senders = group.own, group.theirs
            for posted in self.waiting[group.piece.index, tag]:
                if posted.way.axis != axis:
                    continue
                fits = posted.is_left[senders] & (posted.way.coordinates[senders] == own[places])
                if fits.all():
                    found.append(Taken(posted, places, senders))
                    break
                if fits.any():
                    found.append(Taken(posted, places[fits], senders[fits]))
                    places, senders = places[~fits], senders[~fits]
            else:
                return None
        return found

    def take(self, found: list[Taken], tag: int, num_own: int, now_s: Floats) -> Floats:
        """Receive ``found`` at ``now_s``, and return when the messages are there."""
        arrivals_s = []
        for each in found:
            posted = each.posted
            posted.is_left[each.theirs] = False
            if not posted.is_left.any():
                self.waiting[posted.way.piece.index, tag].remove(posted)
            if posted.is_open is not None:
                self._release(each, num_own, now_s)
            assert posted.end_s is not None
            arrivals_s.append(_picked(posted.end_s, each.theirs, posted.way.axis + 1))
        if len(found) == 1:
            return arrivals_s[0]
        return _joined(arrivals_s, found, num_own)

    def _release(self, taken: Taken, num_own: int, now_s: Floats) -> None:
        """Let the messages go that waited for this receive; all of an op must be received at once."""
        posted = taken.posted
        num_sent = len(posted.is_left)
        if not num_sent == len(taken.theirs) == num_own:
            raise IrregularError(f"messages of {posted.way.piece.role.name} wait for receives of several roles")  # fmt: skip
        axis = posted.way.axis + 1
        order = np.empty(num_sent, np.intp)
        order[taken.theirs] = taken.own
        received_s = _picked(now_s, order, axis)
        held_s = np.maximum(posted.posted_s, received_s)
        start_s = np.where(posted.price.is_held, held_s, posted.posted_s)
        posted.is_open = None
        self.num_held[id(posted.way)] -= 1
        self._carry(posted, start_s)

    def _carry(self, posted: Posted, now_s: Floats) -> None:
        price, way = posted.price, posted.way
        start_s = now_s + price.latency_s
        if (edge := self.edges.get(id(way))) is not None:
            ended_s, free_s = edge
            if (start_s < ended_s).any():
                raise IrregularError(f"a message of {way.piece.role.name} overtakes another")
            self_s = np.maximum(start_s, free_s)
        else:
            self_s = start_s
        posted.start_s = self_s
        posted.end_s = self_s + price.transfer_s
        self.edges[id(way)] = start_s, posted.end_s
        if price.transfer_s.any():
            check_together(way, self_s, price.transfer_s)
            self.flows.append((way, self_s, posted.end_s))
        self.note(posted.end_s)

    def carried(self, way: Way, start_s: Floats, end_s: Floats) -> None:
        """Note that the ranks of a piece sent messages one by one, from ``start_s`` to ``end_s``.

        Raises:
            IrregularError: one that was sent before is still on its way.
        """
        edge = self.edges.get(id(way))
        if edge is not None and (edge[1] > start_s).any():
            raise IrregularError(f"a message of {way.piece.role.name} waits for an earlier one")
        self.edges[id(way)] = end_s, end_s
        self.flows.append((way, start_s, end_s))

    def note(self, end_s: Floats) -> None:
        """Remember when the last message of each replica arrived."""
        self.last_s = np.maximum(self.last_s, end_s.max(axis=(1, 2, 3)))

    def left(self) -> Iterator[Posted]:
        """Yield what was sent and not received."""
        for queue in self.waiting.values():
            yield from queue


def _picked(values: Floats, places: Ints, axis: int) -> Floats:
    """Return ``values`` at ``places`` along ``axis``; without a copy where they are all alike."""
    if values.shape[axis] == 1:
        return values
    if len(places) == values.shape[axis] and (places == np.arange(len(places))).all():
        return values
    return np.take(values, places, axis)


def _joined(values: list[Floats], found: list[Taken], num_own: int) -> Floats:
    """Return ``values`` put together along the axis along which they were sent."""
    axis = found[0].posted.way.axis + 1
    shape = list(np.broadcast_shapes(*(_without(each.shape, axis) for each in values)))
    shape[axis] = num_own
    whole = np.empty(shape)
    for each, value in zip(found, values, strict=True):
        where = [slice(None)] * 4
        where[axis] = each.own  # type: ignore[call-overload]
        whole[tuple(where)] = value
    return whole


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])
