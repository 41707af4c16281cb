"""Reader two: a program simulated by discrete events, one SimPy process per rank and lane.

A message waits out its latency, and then shares the links of its way with all others that are
there, max-min fairly (:mod:`sim.network`). The messages of one rank to another go one after the
other, as on one connection. Inside a node every rank has links of its own; between nodes the ranks
of a node share the node's. A message beyond the link's eager limit leaves when its receive has been
posted too.
"""

import math
import random
from collections import defaultdict, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from exec.program.mesh import Axis
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
from exec.program.peers import AnyRank, Rank, Sender
from exec.program.program import Program
from exec.program.timeline import Span
from sim.costs import Costs
from sim.network import Load, Network, Transfer
from sim.result import StepTimes

_DRAWN = 48  # turns whose noise is drawn; later ones have the same again
Events = Generator[simpy.Event, Any, None]


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
    network: Network[simpy.Event] = Network(costs.capacity, keeps_loads=loads is not None)
    world = _World(program, costs, simpy.Environment(), keeps_spans, jitter, network)
    ranks = [_Rank(world, rank) for rank in range(program.mesh.world_size)]
    processes = [world.env.process(rank.play(one_lane=one_lane)) for rank in ranks]
    world.env.run()
    if any(process.is_alive for process in processes):
        raise ValueError("the program deadlocks; check_program says where")
    if loads is not None and network.loads is not None:
        loads += network.loads
    compute_s = max(world.compute_s.values(), default=0.0)
    return StepTimes(world.last_s, compute_s, tuple(world.spans), arrivals=tuple(world.arrivals))


@dataclass(slots=True)
class _Meeting:
    """A collective under way: how many ranks are there, and the event of its end."""

    end: simpy.Event
    num_arrived: int = 0


@dataclass(slots=True)
class _Message:
    source: int
    ticket: int
    arrived: simpy.Event
    held: Transfer | None = None  # until its receive is posted


@dataclass(slots=True)
class _World:
    """What all ranks share."""

    program: Program
    costs: Costs
    env: simpy.Environment
    keeps_spans: bool
    jitter: float
    network: Network[simpy.Event]
    wake_s: float = math.inf  # when the network is looked at next
    last_s: float = 0.0  # when something ended last
    spans: list[Span] = field(default_factory=list)
    compute_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    mail: dict[tuple[int, int], deque[_Message]] = field(
        default_factory=lambda: defaultdict(deque)
    )  # by (destination, tag)
    posted: dict[int, simpy.Event] = field(default_factory=dict)  # by destination: new mail
    meetings: dict[tuple[Axis, int, str], _Meeting] = field(default_factory=dict)
    locks: dict[str, simpy.Resource] = field(default_factory=dict)
    arrivals: list[int] = field(default_factory=list)  # of the rank that grants tickets
    num_savers: int = 0  # on one node

    def __post_init__(self) -> None:
        self.num_savers = self.costs.num_savers(self.program)

    def lock(self, name: str) -> simpy.Resource:
        """Return the lock called ``name``."""
        return self.locks.setdefault(name, simpy.Resource(self.env))

    def post(self, message: _Message, dest: int, tag: int, nbytes: int) -> None:
        """Start to carry ``message`` unless it must wait, and tell ``dest`` that it will come."""
        self.mail[dest, tag].append(message)
        if (waiting := self.posted.pop(dest, None)) is not None:
            waiting.succeed()
        transfer = self.costs.transfer(nbytes, message.source, dest)
        if self.costs.waits_for_receive(nbytes, message.source, dest):
            message.held = transfer
        else:
            self.carry(message, transfer)

    def carry(self, message: _Message, transfer: Transfer) -> None:
        """Give ``message`` to the network."""
        self.network.send(self.env.now, transfer, message.arrived)
        self.watch()

    def watch(self) -> None:
        """See to it that the network's next event is not missed."""
        next_s = self.network.next_s
        if next_s < self.wake_s:
            self.wake_s = next_s
            delay_s = max(0.0, next_s - self.env.now)
            self.env.timeout(delay_s, next_s).callbacks.append(self.look)

    def look(self, wake: Any) -> None:
        """Let the network go on to when this was to happen; an earlier wake may have done so."""
        now_s: float = wake.value
        if now_s >= self.wake_s:
            self.wake_s = math.inf
        if arrived := self.network.advance(now_s):
            self.last_s = self.env.now
            for event in arrived:
                event.succeed()
        self.watch()

    def take(self, rank: int, op: Receive) -> _Message | None:
        """Return the first message that ``op`` accepts, or None."""
        queue = self.mail[rank, op.tag]
        for i, message in enumerate(queue):
            if isinstance(op.peer, AnyRank) or op.peer == Rank(message.source):
                del queue[i]
                return message
        return None

    def meet(self, rank: int, op: Collective) -> Events:
        """Wait for the group of ``rank``, then for the library."""
        group = self.program.mesh.group(rank, op.axis)
        key = (op.axis, group[0], op.id)
        meeting = self.meetings.setdefault(key, _Meeting(self.env.event()))
        meeting.num_arrived += 1
        if meeting.num_arrived < len(group):
            yield meeting.end
            return
        del self.meetings[key]
        yield self.env.timeout(self.costs.library_s(op, self.program.itemsize, rank))
        meeting.end.succeed()


class _Rank:
    """One rank: what its lanes tell each other, and the ticket it holds or has granted."""

    def __init__(self, world: _World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.role = world.program.role_of(rank)
        self.held = self.role.nbytes
        self.slowness = world.costs.slowness.get(rank, 1.0)
        self.grants = any(isinstance(op, Grant) for op in self.role.ops)
        self.paces = _paces(world.jitter, rank)
        self.ended: dict[str, simpy.Event] = {}
        self.senders: dict[str, int] = {}
        self.holding: dict[str, Any] = {}
        self.turn = 0
        self.ticket = world.program.mesh.coordinates(rank)[0] - world.program.trainers.start

    def has_more(self) -> bool:
        """Say whether the role's ops are to be done once more."""
        if self.role.until:
            return 0 <= self.ticket < self.world.program.tickets
        return self.turn < self.role.times

    def play(self, *, one_lane: bool) -> Events:
        """Do the role's ops, turn by turn."""
        env = self.world.env
        ops = list(self.world.program.ops(self.rank))
        lanes = [ops] if one_lane else [[op for op in ops if lane_of(op) is lane] for lane in Lane]
        while self.has_more():
            self.ended = {}
            pace = self.slowness * self.paces[self.turn % len(self.paces)]
            yield env.all_of([env.process(self.run(lane, pace)) for lane in lanes if lane])
            self.turn += 1
        self.world.last_s = env.now

    def run(self, ops: list[Op], pace: float) -> Events:
        """Do ``ops`` in order, each compute op ``pace`` times as long as its cost."""
        world, env = self.world, self.world.env
        for op in ops:
            start_s = env.now
            match op:
                case Compute():
                    took_s = world.costs.compute_s(op, self.held) * pace
                    world.compute_s[self.rank] += took_s
                    yield env.timeout(took_s)
                    self.end(op.id)
                case Wait(_, id):
                    yield self.event(id)
                case Send(id, part, peer, tag):
                    assert isinstance(peer, Rank | Sender)
                    dest = self.senders[peer.id] if isinstance(peer, Sender) else peer.rank
                    message = _Message(self.rank, self.ticket, env.event())
                    self.ended[id] = message.arrived
                    world.post(message, dest, tag, part.size * world.program.itemsize)
                case Receive(id):
                    yield from self.receive(op)
                    self.end(id)
                case Accumulate(part, _, Rank()):
                    itemsize = world.program.itemsize
                    yield env.timeout(world.costs.window_s(part.size, itemsize, self.held))
                case Accumulate(part) | Scale(part):
                    yield env.timeout(world.costs.accumulate_s(part.size, self.held))
                case Grant():
                    granted = len(world.program.trainers) + self.turn
                    self.ticket = granted if granted < world.program.tickets else -1
                case Acquire(name):
                    request = world.lock(name).request()
                    yield request
                    self.holding[name] = request
                case Release(name):
                    world.lock(name).release(self.holding.pop(name))
                case Collective(id, algorithm=Algorithm.LIBRARY):
                    yield from world.meet(self.rank, op)
                    self.end(id)
                case Mark(id):
                    self.end(id)
                case Save(_, nbytes):
                    yield env.timeout(world.costs.save_s(nbytes, world.num_savers))
                    self.end(op.id)
                case Collective() | Repeat():
                    raise ValueError("simulate reads a program with its collectives expanded")
            if world.keeps_spans and env.now > start_s:
                world.spans.append(Span(self.rank, lane_of(op), span_name(op), start_s, env.now))

    def receive(self, op: Receive) -> Events:
        """Wait until a message that ``op`` accepts is posted, then until it is here."""
        while (message := self.world.take(self.rank, op)) is None:
            waiting = self.world.posted.setdefault(self.rank, self.world.env.event())
            yield waiting
        if message.held is not None:
            self.world.carry(message, message.held)
        yield message.arrived
        self.senders[op.id] = message.source
        if self.grants and isinstance(op.peer, AnyRank):
            self.world.arrivals.append(message.source)
        if op.id == self.role.until:
            self.ticket = message.ticket

    def event(self, id: str) -> simpy.Event:
        """Return the event that the op called ``id`` has ended."""
        return self.ended.setdefault(id, self.world.env.event())

    def end(self, id: str) -> None:
        """Say that the op called ``id`` has ended."""
        event = self.event(id)
        if not event.triggered:
            event.succeed()


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
