"""Reader two: a program simulated by discrete events, one generator per rank and lane.

A message waits out its latency, and then shares the links of its way with all others that are
there, max-min fairly (:mod:`sim.network`). The messages of one rank to another go one after the
other, as on one connection. Inside a node every rank has links of its own; between nodes the ranks
of a node share the node's. A message beyond the link's eager limit leaves when its receive has been
posted too.

SimPy is the clock: whatever takes time ends with one of its timeouts, one for all that end at
the same moment. What takes none, a lane that tells another to go on, is a call.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import simpy

from exec.program.mesh import Axis
from exec.program.ops import (
    Acquire,
    Collective,
    Compute,
    Grant,
    Lane,
    Op,
    Receive,
    Release,
    Save,
    Wait,
)
from exec.program.program import Program
from exec.program.timeline import Span
from sim.bound_ops import NONE, Await, Bound, BoundRole, End, Loop, Post, Sum, Take, Taken, Work, bind
from sim.costs import Costs
from sim.network import Load, Network, Path
from sim.result import StepTimes

_DRAWN = 48  # turns whose noise is drawn; later ones have the same again


def simulate(
    program: Program, costs: Costs, *, one_lane: bool, keeps_spans: bool = False, jitter: float = 0.0,
    loads: list[Load] | None = None,
) -> StepTimes:  # fmt: skip
    """Return the times of ``program``, its collectives expanded or the library's.

    With ``one_lane`` a rank does all its ops in the order of the program, as where nothing
    moves during compute; else its two lanes are independent. ``jitter`` is the relative standard
    deviation by which a rank's compute differs from turn to turn, drawn from a fixed seed. What
    each link carries over time is added to ``loads``, if given.
    """
    network: Network[_Message] = Network(costs.capacity, keeps_loads=loads is not None)
    world = _World(program, costs, network, keeps_spans)
    bound = [bind(program, role, costs, one_lane=one_lane) for role in program.roles]
    for rank in range(program.mesh.world_size):
        role = bound[program.roles.index(program.role_of(rank))]
        world.ranks.append(_Rank(program, role, rank, costs.slowness.get(rank, 1.0), jitter))
    for rank in world.ranks:
        world.begin(rank)
    world.env.run()
    if not all(rank.is_over for rank in world.ranks):
        raise ValueError("the program deadlocks; check_program says where")
    if loads is not None and network.loads is not None:
        loads += network.loads
    compute_s = max((rank.compute_s for rank in world.ranks), default=0.0)
    return StepTimes(world.last_s, compute_s, tuple(world.spans), arrivals=tuple(world.arrivals))


@dataclass(slots=True, eq=False)
class _Message:
    """A message; or, with no ``source`` yet, what lanes wait for before it is there."""

    source: int
    ticket: int
    has_arrived: bool = False
    receiver: "_Lane | None" = None
    held: "Path[_Message] | None" = None  # until its receive is posted
    waiting: "list[_Lane] | None" = None


_ENDED = _Message(NONE, NONE, has_arrived=True)


@dataclass(slots=True)
class _Connection:
    """From one rank to ``dest``: by bytes, the path of a message and whether it must be held."""

    dest: "_Rank"
    paths: dict[int, tuple[Path[_Message], bool]] = field(default_factory=dict)


class _Lane:
    """One lane of a rank: the rest of what it does, and how it goes on."""

    __slots__ = ("go_on", "rank", "rest")

    def __init__(self, rank: "_Rank") -> None:
        self.rank = rank
        self.rest: Generator[None] = _nothing()
        self.go_on: Callable[[], object] = _nothing

    def do(self, rest: Generator[None]) -> None:
        self.rest, self.go_on = rest, partial(next, rest, None)


def _nothing() -> Generator[None]:
    yield from ()


class _Rank:
    """One rank: what its lanes tell each other, and the ticket it holds or has granted."""

    __slots__ = (
        "board", "bound", "compute_s", "connections", "is_over", "lanes", "mail", "num_busy", "number",
        "pace", "paces", "places", "program", "senders", "slowness", "taken", "ticket", "turn",
        "wanted_source", "wanted_tag", "wanting",
    )  # fmt: skip

    def __init__(self, program: Program, bound: BoundRole, number: int, slowness: float, jitter: float) -> None:  # fmt: skip
        self.program, self.bound, self.number, self.slowness = program, bound, number, slowness
        self.paces = _paces(jitter, number)
        self.pace, self.compute_s, self.turn, self.num_busy = 1.0, 0.0, 0, 0
        self.ticket = program.mesh.coordinates(number)[0] - program.trainers.start
        self.is_over = not bound.lanes
        self.lanes = [_Lane(self) for _ in bound.lanes]
        self.board: list[_Message | None] = []  # by slot: what has been sent, or has ended
        self.senders = [NONE] * bound.num_senders
        self.connections: dict[int, _Connection] = {}
        self.places: list[_Connection | None] = [None] * bound.num_places
        self.mail: dict[int, deque[_Message]] = {}  # by tag: posted, and no receive is
        self.wanting: _Lane | None = None  # the lane whose receive is posted, and no message is
        self.wanted_tag = self.wanted_source = NONE
        self.taken = _ENDED  # what was received last

    def begin_turn(self) -> None:
        """Begin the role's ops anew, if they are to be done once more."""
        role = self.bound.role
        if role.until:
            self.is_over = not 0 <= self.ticket < self.program.tickets
        else:
            self.is_over = self.turn >= role.times
        self.board = [None] * self.bound.num_slots
        self.pace = self.slowness * self.paces[self.turn % len(self.paces)]
        self.num_busy = len(self.lanes)


class _World:
    """What all ranks share, and what they do: an op returns True where its lane must wait."""

    def __init__(self, program: Program, costs: Costs, network: Network[_Message], keeps_spans: bool) -> None:  # fmt: skip
        self.program, self.costs, self.network, self.keeps_spans = program, costs, network, keeps_spans
        self.env = simpy.Environment()
        self.ranks: list[_Rank] = []
        self.now_s = 0.0  # SimPy's, without the rounding of its delays
        self.last_s = 0.0  # when something ended last
        self.wake_s = math.inf  # when the network is looked at next
        self.alarms: dict[float, list[_Lane]] = {}  # by time: the lanes that go on then
        self.spans: list[Span] = []
        self.meetings: dict[tuple[Axis, int, str], list[_Lane]] = {}  # those who wait
        self.locks: dict[str, simpy.Resource] = {}
        self.holding: dict[tuple[int, str], Any] = {}
        self.arrivals: list[int] = []  # of the rank that grants tickets
        self.verbs: dict[type, Callable[[_Lane, Any, int], bool]] = {
            Work: self.work, Sum: self.sum, Post: self.post, Take: self.take, Taken: self.note,
            Await: self.await_slot, End: self.end, Collective: self.meet, Grant: self.grant,
            Acquire: self.acquire, Release: self.release,
        }  # fmt: skip
        self.bodies: dict[Loop, Any] = {}

    def begin(self, rank: _Rank) -> None:
        """Let the lanes of ``rank`` begin."""
        rank.begin_turn()
        for lane, loops in zip(rank.lanes, rank.bound.lanes, strict=True):
            run = self.run_traced if self.keeps_spans else self.run
            lane.do(run(lane, [(range(loop.count), [(self.verbs[type(each.verb)], each.verb, each) for each in loop.body]) for loop in loops]))
        if not rank.is_over:
            for lane in rank.lanes:
                lane.go_on()

    def run(self, lane: _Lane, loops) -> Generator[None]:
        """Do the ops of ``lane``, turn by turn; whoever it waits for lets it go on."""
        rank = lane.rank
        while not rank.is_over:
            for iterations, body in loops:
                for k in iterations:
                    for do, verb, _ in body:
                        if do(lane, verb, k):
                            yield
            rank.num_busy -= 1
            if rank.num_busy:
                yield
            else:
                self.end_turn(lane)

    def run_traced(self, lane: _Lane, loops) -> Generator[None]:
        """Do what :meth:`run` does, and keep the spans of what took time."""
        rank = lane.rank
        while not rank.is_over:
            for iterations, body in loops:
                for k in iterations:
                    for do, verb, bound in body:
                        start_s = self.now_s
                        if do(lane, verb, k):
                            yield
                            if self.now_s > start_s:
                                self.spans.append(Span(rank.number, bound.lane, span_name(bound.op), start_s, self.now_s))
            rank.num_busy -= 1
            if rank.num_busy:
                yield
            else:
                self.end_turn(lane)

    def end_turn(self, last: _Lane) -> None:
        """Let all lanes go on to the next turn, now that the ``last`` one is through."""
        rank = last.rank
        rank.turn += 1
        rank.begin_turn()
        self.last_s = self.now_s
        for lane in rank.lanes:
            if lane is not last:
                lane.go_on()

    def wake_at(self, time_s: float) -> list[_Lane]:
        """Return the lanes that go on at ``time_s``, when SimPy will wake the world."""
        lanes = self.alarms.get(time_s)
        if lanes is None:
            lanes = self.alarms[time_s] = []
            delay_s = max(0.0, time_s - self.env.now)
            self.env.timeout(delay_s, time_s).callbacks.append(self.wake)
        return lanes

    def wake(self, timeout: Any) -> None:
        """Let happen what is due: messages arrive, and lanes go on."""
        time_s: float = timeout.value
        if time_s > self.now_s:
            self.now_s = time_s
        lanes = self.alarms.pop(time_s)
        if time_s >= self.wake_s:
            self.wake_s = math.inf
            self.arrive(self.network.advance(time_s))
            next_s = self.network.next_s
            if next_s < self.wake_s:
                self.wake_s = next_s
                self.wake_at(next_s)
        for lane in lanes:
            lane.go_on()

    def arrive(self, messages: list[_Message]) -> None:
        """Let go on who waits for ``messages``, which are here."""
        if messages:
            self.last_s = self.now_s
        for message in messages:
            message.has_arrived = True
        for message in messages:
            if message.receiver is not None:
                message.receiver.go_on()
            if message.waiting is not None:
                for lane in message.waiting:
                    lane.go_on()

    def work(self, lane: _Lane, op: Work, _: int) -> bool:
        """Compute, add or save."""
        took_s = op.seconds
        if op.is_paced:
            took_s *= lane.rank.pace
            lane.rank.compute_s += took_s
        if not took_s:
            return False
        self.wake_at(self.now_s + took_s).append(lane)
        return True

    def sum(self, lane: _Lane, op: Sum, k: int) -> bool:
        """Add a chunk."""
        size = op.size_of(lane.rank.number, k)
        took_s = op.known.get(size)
        if took_s is None:
            took_s = op.known[size] = op.seconds_of(size)
        if not took_s:
            return False
        self.wake_at(self.now_s + took_s).append(lane)
        return True

    def post(self, lane: _Lane, op: Post, k: int) -> bool:
        """Send a message, unless it must be held until its receive is posted."""
        rank = lane.rank
        connection = rank.places[op.place] if op.place >= 0 else None
        if connection is None:
            connection = self.connect(rank, op, k)
        nbytes = op.nbytes if op.nbytes >= 0 else op.nbytes_of(rank.number, k)
        known = connection.paths.get(nbytes)
        if known is None:
            known = connection.paths[nbytes] = self.path(rank.number, connection.dest.number, nbytes)
        path, is_held = known
        message = _Message(rank.number, rank.ticket)
        if op.slot >= 0:
            early = rank.board[op.slot]
            if early is not None and early.source < 0:
                message.waiting = early.waiting
            rank.board[op.slot] = message
        dest = connection.dest
        if dest.wanted_tag == op.tag and dest.wanting is not None and dest.wanted_source in (NONE, rank.number):
            message.receiver, dest.wanting, dest.taken = dest.wanting, None, message
        else:
            queue = dest.mail.get(op.tag)
            if queue is None:
                queue = dest.mail[op.tag] = deque()
            queue.append(message)
            if is_held:
                message.held = path
                return False
        self.carry(path, message)
        return False

    def carry(self, path: Path[_Message], message: _Message) -> None:
        """Give ``message`` to the network."""
        next_s = self.network.send_along(self.now_s, path, message)
        if next_s < self.wake_s:
            self.wake_s = next_s
            self.wake_at(next_s)

    def connect(self, rank: _Rank, op: Post, k: int) -> _Connection:
        """Return the connection to whom ``rank`` sends."""
        number = op.to(rank.number, k) if op.answers < 0 else rank.senders[op.answers]
        connection = rank.connections.get(number)
        if connection is None:
            connection = rank.connections[number] = _Connection(self.ranks[number])
        if op.place >= 0:
            rank.places[op.place] = connection
        return connection

    def path(self, source: int, dest: int, nbytes: int) -> tuple[Path[_Message], bool]:
        """Return the path of a message, and whether it waits for its receive."""
        transfer = self.costs.transfer(nbytes, source, dest)
        return self.network.path(transfer), self.costs.waits_for_receive(nbytes, source, dest)

    def take(self, lane: _Lane, op: Take, k: int) -> bool:
        """Receive the first message that ``op`` accepts, or wait for it."""
        rank = lane.rank
        source = op.source(rank.number, k)
        queue = rank.mail.get(op.tag)
        if queue:
            for i, message in enumerate(queue):
                if source < 0 or message.source == source:
                    del queue[i]
                    rank.taken = message
                    if message.has_arrived:
                        return False
                    message.receiver = lane
                    if message.held is not None:
                        self.carry(message.held, message)
                    return True
        rank.wanting, rank.wanted_tag, rank.wanted_source = lane, op.tag, source
        return True

    def note(self, lane: _Lane, op: Taken, _: int) -> bool:
        """Keep what is to be known of the message that has just been received."""
        rank = lane.rank
        if op.slot >= 0:
            rank.senders[op.slot] = rank.taken.source
        if op.is_recorded:
            self.arrivals.append(rank.taken.source)
        if op.has_ticket:
            rank.ticket = rank.taken.ticket
        return False

    def await_slot(self, lane: _Lane, op: Await, _: int) -> bool:
        """Wait until what the slot stands for has ended."""
        board = lane.rank.board
        awaited = board[op.slot]
        if awaited is None:
            awaited = board[op.slot] = _Message(NONE, NONE)
        if awaited.has_arrived:
            return False
        if awaited.waiting is None:
            awaited.waiting = [lane]
        else:
            awaited.waiting.append(lane)
        return True

    def end(self, lane: _Lane, op: End, _: int) -> bool:
        """Let go on who waits for what has ended."""
        board = lane.rank.board
        awaited = board[op.slot]
        board[op.slot] = _ENDED
        if awaited is not None and awaited.waiting is not None:
            for each in awaited.waiting:
                each.go_on()
        return False

    def meet(self, lane: _Lane, op: Collective, _: int) -> bool:
        """Wait for the group, then for the library."""
        mesh, number = self.program.mesh, lane.rank.number
        key = (op.axis, mesh.moved(number, op.axis, 0), op.id)
        waiting = self.meetings.setdefault(key, [])
        waiting.append(lane)
        if len(waiting) == mesh.size(op.axis):
            del self.meetings[key]
            took_s = self.costs.library_s(op, self.program.itemsize, number)
            self.wake_at(self.now_s + took_s).extend([lane, *waiting[:-1]])
        return True

    def grant(self, lane: _Lane, _op: Grant, _: int) -> bool:
        """Write the next ticket."""
        rank, tickets = lane.rank, self.program.tickets
        granted = len(self.program.trainers) + rank.turn
        rank.ticket = granted if granted < tickets else -1
        return False

    def acquire(self, lane: _Lane, op: Acquire, _: int) -> bool:
        """Wait for a lock."""
        lock = self.locks.setdefault(op.name, simpy.Resource(self.env))
        request = self.holding[lane.rank.number, op.name] = lock.request()
        request.callbacks.append(lambda _: lane.go_on())
        return True

    def release(self, lane: _Lane, op: Release, _: int) -> bool:
        """Let go of a lock."""
        self.locks[op.name].release(self.holding.pop((lane.rank.number, op.name)))
        return False


def _paces(jitter: float, rank: int) -> list[float]:
    """Return by how much a rank's turns differ, over and over: lognormal, of mean 1 exactly."""
    if not jitter:
        return [1.0]
    generator = random.Random(rank)  # noqa: S311  # noise, not secrets
    drawn = [generator.lognormvariate(0.0, jitter) for _ in range(_DRAWN)]
    mean = sum(drawn) / _DRAWN
    return [pace / mean for pace in drawn]


def span_name(op: Op) -> str:
    """Return what the timeline calls ``op``."""
    match op:
        case Compute() | Collective() | Save():
            return op.id
        case Receive(id):
            return f"recv {id}"
        case Wait(_, id):
            return f"wait {id}"
        case Acquire(name):
            return f"wait {name}"
        case _:
            return type(op).__name__.lower()
