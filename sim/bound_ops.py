"""Bound ops: the ops of a role with their costs known, their ids numbered and their peers formulas.

A role is bound once, however many ranks play it. What differs from rank to rank, a peer or the
size of a chunk, is a formula; what does not is a number. An id that no ``Wait`` names has no slot,
and its end is nobody's business. Ends that are somebody's are ops of their own.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

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
from exec.program.peers import AnyRank, Part, Sender
from exec.program.program import Program, Role
from sim.costs import Costs
from sim.peer_formulas import Formula, always, moves, peer_of, size_of

NONE = -1
"""No slot: nobody waits for it; no place: it is not the same each time; no rank: any will do."""


@dataclass(frozen=True, slots=True)
class Work:
    """Take ``seconds``, times the rank's pace if ``is_paced``."""

    seconds: float
    is_paced: bool


@dataclass(frozen=True, slots=True)
class Works:
    """Do the works ``bounds`` one after another; ``parts`` are their seconds, and if they are paced.

    Nobody can see where one ends and the next begins, so they are a single wait.
    """

    parts: tuple[tuple[float, bool], ...]
    bounds: tuple["Bound", ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Take ``seconds_of`` the size; ``known`` are those of the sizes that there have been."""

    size_of: Formula
    seconds_of: Callable[[int], float]
    known: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Post:
    """Send ``nbytes`` (or what ``nbytes_of`` says) to the rank ``to``, and note it in ``slot``.

    A peer that stays the same has a ``place`` among those of its role; ``answers`` is the slot of
    the sender whom a server answers.
    """

    slot: int
    tag: int
    nbytes: int
    nbytes_of: Formula
    to: Formula
    place: int
    answers: int


@dataclass(frozen=True, slots=True)
class Take:
    """Receive ``tag`` from the rank ``source``, or from any."""

    tag: int
    source: Formula


@dataclass(frozen=True, slots=True)
class Taken:
    """Keep of what was received its sender in ``slot`` and in the record, and its ticket."""

    slot: int
    is_recorded: bool
    has_ticket: bool


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for what ``slot`` stands for."""

    slot: int


@dataclass(frozen=True, slots=True)
class End:
    """Tell those who wait for ``slot``."""

    slot: int


Verb = (
    Work | Works | Sum | Post | Take | Taken | Await | End | Collective | Grant | Acquire | Release
)


@dataclass(frozen=True, slots=True)
class Bound:
    """What is to be done, and the op and the lane that it comes from."""

    verb: Verb
    op: Op
    lane: Lane


@dataclass(frozen=True, slots=True)
class Loop:
    """``body``, ``count`` times."""

    count: int
    body: tuple[Bound, ...]


@dataclass(frozen=True, slots=True)
class BoundRole:
    """The loops of each lane that has any, and how many slots, senders and places a rank needs."""

    role: Role
    lanes: tuple[tuple[Loop, ...], ...]
    num_slots: int
    num_senders: int
    num_places: int


def bind(program: Program, role: Role, costs: Costs, *, one_lane: bool) -> BoundRole:
    """Return ``role`` of ``program`` bound to ``costs``, with one lane or with two."""
    binder = _Binder(program, role, costs)
    loops = []
    for op in role.ops:
        count, ops = (op.count, op.body) if isinstance(op, Repeat) else (1, (op,))
        loops.append(Loop(count, tuple(binder.bind(ops))))
    kept = [tuple(Lane)] if one_lane else [(lane,) for lane in Lane]
    lanes = (tuple(_joined(loops, lanes)) for lanes in kept)
    return BoundRole(
        role, tuple(filter(None, lanes)), len(binder.slots), len(binder.senders), binder.num_places
    )


def _joined(loops: Iterable[Loop], lanes: tuple[Lane, ...]) -> Iterator[Loop]:
    """Yield the ops of ``loops`` that are of ``lanes``, those that are done once in one loop."""
    once: list[Bound] = []
    for loop in loops:
        body = [each for each in loop.body if each.lane in lanes]
        if loop.count == 1:
            once += body
        elif body:
            if once:
                yield Loop(1, tuple(_runs(once)))
            once = []
            yield Loop(loop.count, tuple(_runs(body)))
    if once:
        yield Loop(1, tuple(_runs(once)))


def _runs(body: Iterable[Bound]) -> Iterator[Bound]:
    """Yield ``body``, works that follow each other as one."""
    for is_work, group in groupby(body, lambda each: isinstance(each.verb, Work)):
        run = tuple(group)
        if is_work and len(run) > 1:
            works = [each.verb for each in run if isinstance(each.verb, Work)]
            parts = tuple((work.seconds, work.is_paced) for work in works)
            yield replace(run[0], verb=Works(parts, run))
        else:
            yield from run


class _Binder:
    """The numbers that the ops of one role are given."""

    def __init__(self, program: Program, role: Role, costs: Costs) -> None:
        self.program, self.role, self.costs = program, role, costs
        ops = [op for each in role.ops for op in (each.body if isinstance(each, Repeat) else (each,))]  # fmt: skip
        self.slots = _numbered(op.id for op in ops if isinstance(op, Wait))
        peers = (op.peer for op in ops if isinstance(op, Send))
        self.senders = _numbered(peer.id for peer in peers if isinstance(peer, Sender))
        self.grants = any(isinstance(op, Grant) for op in ops)
        self.num_places = 0

    def bind(self, ops: Iterable[Op]) -> Iterator[Bound]:
        """Yield what is to be done for each of ``ops``."""
        for op in ops:
            lane = lane_of(op)
            for verb in self._verbs(op):
                yield Bound(verb, op, lane)

    def _verbs(self, op: Op) -> Iterator[Verb]:
        costs, held = self.costs, self.role.nbytes
        match op:
            case Compute():
                yield Work(costs.compute_s(op, held), is_paced=True)
                yield from self._end(op.id)
            case Save(_, nbytes):
                yield Work(costs.save_s(nbytes, costs.num_savers(self.program)), is_paced=False)
                yield from self._end(op.id)
            case Accumulate(part, _, peer) if peer is not None:
                yield self._sum(
                    part, lambda size: costs.window_s(size, self.program.itemsize, held)
                )
            case Accumulate(part) | Scale(part):
                yield self._sum(part, lambda size: costs.accumulate_s(size, held))
            case Send():
                yield self._post(op)
            case Receive():
                yield from self._take(op)
                yield from self._end(op.id)
            case Wait(_, id):
                yield Await(self.slots[id])
            case Mark(id):
                yield from self._end(id)
            case Collective(id, algorithm=Algorithm.LIBRARY):
                yield op
                yield from self._end(id)
            case Grant() | Acquire() | Release():
                yield op
            case Collective() | Repeat():
                raise ValueError("simulate reads a program with its collectives expanded")

    def _end(self, id: str) -> Iterator[End]:
        if id in self.slots:
            yield End(self.slots[id])

    def _sum(self, part: Part, seconds_of: Callable[[int], float]) -> Work | Sum:
        size = size_of(part, self.program.mesh)
        if isinstance(size, int):
            return Work(seconds_of(size), is_paced=False)
        return Sum(size, seconds_of)

    def _post(self, op: Send) -> Post:
        mesh, peer = self.program.mesh, op.peer
        slot, size = self.slots.get(op.id, NONE), size_of(op.part, mesh, self.program.itemsize)
        nbytes, nbytes_of = (size, always(size)) if isinstance(size, int) else (NONE, size)
        if isinstance(peer, Sender):
            return Post(slot, op.tag, nbytes, nbytes_of, always(NONE), NONE, self.senders[peer.id])
        if isinstance(peer, AnyRank):
            raise ValueError(f"send {op.id} must name a rank, got any")
        place = NONE
        if not moves(peer):
            place, self.num_places = self.num_places, self.num_places + 1
        return Post(slot, op.tag, nbytes, nbytes_of, peer_of(peer, mesh), place, NONE)

    def _take(self, op: Receive) -> Iterator[Take | Taken]:
        is_any = isinstance(op.peer, AnyRank)
        if isinstance(op.peer, AnyRank):
            yield Take(op.tag, always(NONE))
        elif isinstance(op.peer, Sender):
            raise ValueError(f"receive {op.id} must name a rank, got a sender")
        else:
            yield Take(op.tag, peer_of(op.peer, self.program.mesh))
        taken = Taken(
            self.senders.get(op.id, NONE), self.grants and is_any, op.id == self.role.until
        )
        if taken != Taken(NONE, False, False):
            yield taken


def _numbered(ids: Iterable[str]) -> dict[str, int]:
    return {id: number for number, id in enumerate(dict.fromkeys(ids))}
