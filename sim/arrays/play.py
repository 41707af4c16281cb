"""The play: each lane of each piece is walked once, resting where what it waits for is not known yet.

Times are arrays over the ranks of a piece, and every op is done for all of them at once. A program
whose messages do not meet on links is a max-plus system, so the order of the walks does not matter.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np

from exec.program.ops import (
    Accumulate,
    Acquire,
    Algorithm,
    Collective,
    Compute,
    Grant,
    Lane,
    Mark,
    Op,
    Receive,
    Release,
    Repeat,
    Save,
    Scale,
    Send,
    Wait,
    lane_of,
)
from exec.program.peers import Part as Whole
from exec.program.program import Program
from sim.arrays.irregular import IrregularError
from sim.arrays.links import check_meetings
from sim.arrays.mail import Mail, Posted
from sim.arrays.pieces import AXES, Floats, Layout, Piece, last_of_blocks
from sim.arrays.rounds import Member, Round, play_round, round_of
from sim.arrays.ways import Ways, num_elements
from sim.costs import Costs

_END = object()
Walk = Generator[None, None, Floats]


@dataclass(slots=True, eq=False)
class Part:
    """One piece in the play; ``pace`` is by how much it computes longer, in each turn."""

    piece: Piece
    pace: list[Floats]
    waited: frozenset[str]
    turn: int = 0
    ended_s: dict[str, Floats | Posted] = field(default_factory=dict)
    compute_s: Floats | float = 0.0


@dataclass(slots=True, eq=False)
class _Meeting:
    """What the ranks of a group do together: by piece, what and when they begin, and when they end."""

    members: dict[int, tuple[Any, Floats]] = field(default_factory=dict)
    ends_s: dict[int, Floats] = field(default_factory=dict)


class Play:
    """A program under way."""

    def __init__(self, program: Program, costs: Costs, layout: Layout, *, is_together: bool) -> None:  # fmt: skip
        self.program, self.costs, self.layout = program, costs, layout
        self.ways = Ways(layout, costs, program.itemsize, is_together=is_together)
        self.mail = Mail()
        self.num_savers = costs.num_savers(program) if _saves(program) else 0
        self.has_moved = False
        self.next_look = 16
        self.meetings: dict[tuple[object, ...], _Meeting] = {}

    def play(self, parts: list[Part], *, one_lane: bool) -> Floats:
        """Return when each replica ends.

        Raises:
            IrregularError: ranks of one piece wait for each other, or it takes events to tell.
        """
        walks = [self._turns(part, one_lane=one_lane) for part in parts]
        resting = list(zip(parts, walks, strict=True))
        ends: dict[int, Floats] = {}
        while resting:
            still = []
            for part, walk in resting:
                try:
                    next(walk)
                except StopIteration as stop:
                    ends[part.piece.index] = stop.value
                    self.has_moved = True
                else:
                    still.append((part, walk))
                self._look_for_meetings()
            if not self.has_moved and still:
                names = sorted({part.piece.role.name for part, _ in still})
                raise IrregularError(f"ranks of one role wait for each other: {names[0]}")
            self.has_moved = False
            resting = still
        last_s = self.mail.last_s
        for end_s in ends.values():
            last_s = np.maximum(last_s, end_s.max(axis=(1, 2, 3)))
        return last_s

    def _look_for_meetings(self) -> None:
        """Say early if flows meet, which the whole play would only say at its end."""
        if len(self.mail.flows) >= self.next_look:
            check_meetings(self.mail.flows, self.ways)
            self.next_look = 4 * len(self.mail.flows)

    def _turns(self, part: Part, *, one_lane: bool) -> Walk:
        """Do the role's ops, turn by turn; return when all is done."""
        ops = part.piece.role.ops
        lanes = [ops] if one_lane else [tuple(op for op in ops if lane_of(op) is lane) for lane in Lane]  # fmt: skip
        now_s = np.zeros((1, 1, 1, 1))
        for turn in range(part.piece.role.times):
            part.turn, part.ended_s = turn, {}
            ends: list[Floats] = []
            walks = [self._walk(part, lane, now_s, ends) for lane in lanes if lane]
            while walks := [walk for walk in walks if next(walk, _END) is not _END]:
                yield
            for end_s in ends:
                now_s = np.maximum(now_s, end_s)
        return now_s

    def _walk(self, part: Part, ops: tuple[Op, ...], now_s: Floats, ends: list[Floats]) -> Iterator[None]:  # fmt: skip
        """Do ``ops``, which begin at ``now_s``; yield wherever something is not known yet."""
        for op in ops:
            if not isinstance(op, Repeat):
                now_s = yield from self._do(part, op, now_s, 0)
            elif (told := round_of(op)) is not None:
                now_s = yield from self._meet_round(part, told, now_s)
            else:
                for iteration in range(op.count):
                    for inner in op.body:
                        now_s = yield from self._do(part, inner, now_s, iteration)
        ends.append(now_s)

    def _do(self, part: Part, op: Op, now_s: Floats, iteration: int) -> Walk:
        """Do ``op`` and return when it is done."""
        piece = part.piece
        held = piece.role.nbytes
        match op:
            case Compute():
                took_s = self.costs.compute_s(op, held) * part.pace[part.turn % len(part.pace)]
                part.compute_s = part.compute_s + took_s
                now_s = now_s + took_s
                self._end(part, op.id, now_s)
            case Wait(_, id):
                while (ended_s := self._ended_s(part, id)) is None:
                    yield
                now_s = np.maximum(now_s, ended_s)
            case Send(id, whole, peer, tag):
                way = self.ways.way(piece, peer, iteration)
                size = self._anchored(whole)
                nbytes = num_elements(whole, piece, size, iteration) * self.program.itemsize
                price = self.ways.price(way, nbytes)
                part.ended_s[id] = self.mail.post(way, price, tag, now_s)
            case Receive(id, _, peer, tag):
                way = self.ways.way(piece, peer, iteration)
                own = piece.coordinates[way.axis]
                while (found := self.mail.find(way.groups, way.axis, own, tag)) is None:
                    yield
                now_s = np.maximum(now_s, self.mail.take(found, tag, len(own), now_s))
                self._end(part, id, now_s)
            case Accumulate(whole, _, peer) if peer is not None:
                now_s = now_s + self._sum_s(piece, whole, iteration, self._of_window)
            case Accumulate(whole) | Scale(whole):
                now_s = now_s + self._sum_s(piece, whole, iteration, self.costs.accumulate_s)
            case Collective(id, algorithm=Algorithm.LIBRARY):
                now_s = yield from self._meet(part, op, now_s)
                self._end(part, id, now_s)
            case Mark(id):
                self._end(part, id, now_s)
            case Save(_, nbytes):
                now_s = now_s + self.costs.save_s(nbytes, self.num_savers)
                self._end(part, op.id, now_s)
            case Grant() | Acquire() | Release():
                raise IrregularError(
                    f"ranks of {piece.role.name} take turns that only a run can tell"
                )
            case Collective() | Repeat():
                raise ValueError("arrays read a program with its collectives expanded")
            case _:
                assert_never(op)
        self.has_moved = True
        return now_s

    def _of_window(self, size: int, held: int) -> float:
        return self.costs.window_s(size, self.program.itemsize, held)

    def _sum_s(
        self, piece: Piece, whole: Whole, iteration: int, seconds_of: Callable[[int, int], float]
    ) -> Floats | float:
        """Return what it takes each rank to add ``whole``: ``seconds_of`` its size and what is held."""
        size = self._anchored(whole)
        found = num_elements(whole, piece, size, iteration)
        held = piece.role.nbytes
        if isinstance(found, int):
            return seconds_of(found, held)
        sizes, which = np.unique(found, return_inverse=True)
        costs_s = np.array([seconds_of(each, held) for each in sizes.tolist()])
        return costs_s[which].reshape(1, *found.shape)

    def _anchored(self, whole: Whole) -> int:
        """Return how many coordinates the axis has along which chunks of ``whole`` are named."""
        return 1 if whole.chunks is None else self.layout.mesh.size(whole.chunks.anchor.axis)

    def _meet(self, part: Part, op: Collective, now_s: Floats) -> Walk:
        """Wait for the group of each rank, then for the library; return when that is done."""
        axis = AXES.index(op.axis)
        meeting, others = self._meeting(part, axis, op.id)
        meeting.members[part.piece.index] = op, now_s
        self.has_moved = True
        while len(meeting.members) < len(others):
            yield
        if not meeting.ends_s:
            if len({each.part.size for each, _ in meeting.members.values()}) > 1:
                raise IrregularError(f"ranks bring unequal parts to {op.id}")
            rank = int(part.piece.ranks.flat[0])
            took_s = self.costs.library_s(op, self.program.itemsize, rank)
            starts_s = [meeting.members[each.index][1] for each in others]
            places = [each.coordinates[axis] for each in others]
            lasts_s = last_of_blocks(starts_s, places, axis + 1, op.block)
            meeting.ends_s = {each.index: last_s + took_s for each, last_s in zip(others, lasts_s, strict=True)}  # fmt: skip
        return meeting.ends_s[part.piece.index]

    def _meet_round(self, part: Part, told: Round, now_s: Floats) -> Walk:
        """Hand chunks round with all along the axis; return when that is done."""
        meeting, others = self._meeting(part, told.axis, told.id)
        meeting.members[part.piece.index] = told, now_s
        self.has_moved = True
        while len(meeting.members) < len(others):
            yield
        if not meeting.ends_s:
            members = [Member(each, *meeting.members[each.index]) for each in others]
            ends_s = play_round(members, self.ways, self.mail)
            meeting.ends_s = {each.index: end_s for each, end_s in zip(others, ends_s, strict=True)}
        return meeting.ends_s[part.piece.index]

    def _meeting(self, part: Part, axis: int, id: str) -> tuple[_Meeting, list[Piece]]:
        """Return the meeting called ``id`` of a piece's groups along an axis, and the pieces there."""
        others = self.layout.along(part.piece, axis)
        key = axis, others[0].index, id, part.turn
        return self.meetings.setdefault(key, _Meeting()), others

    def _end(self, part: Part, id: str, now_s: Floats) -> None:
        """Note that the op called ``id`` has ended, if anything waits for it."""
        if id in part.waited:
            part.ended_s.setdefault(id, now_s)

    def _ended_s(self, part: Part, id: str) -> Floats | None:
        """Return when the op called ``id`` ended; None if that is not known yet."""
        ended = part.ended_s.get(id)
        return ended.end_s if isinstance(ended, Posted) else ended


def _saves(program: Program) -> bool:
    return any(isinstance(op, Save) for role in program.roles for op in role.ops)
