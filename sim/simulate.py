"""Reader two: a program simulated by discrete events, one SimPy process per rank and lane.

Links are resources: a message waits out its latency, takes its turn on the sender's and then on
the receiver's port, and keeps both for its transfer. Inside a node every rank has ports of its
own; between nodes the ranks of a node share the node's.
"""

from collections import defaultdict, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import simpy

from calibration.machine import Tier
from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    Compute,
    Lane,
    Mark,
    Op,
    Receive,
    Repeat,
    Send,
    Wait,
    lane_of,
)  # fmt: skip
from exec.program.peers import AnyRank, Rank
from exec.program.program import Program
from exec.program.timeline import Span
from sim.costs import Costs
from sim.result import StepTimes

Events = Generator[simpy.Event, Any, None]


def simulate(
    program: Program, costs: Costs, *, one_lane: bool, keeps_spans: bool = False
) -> StepTimes:
    """Return the times of one step of ``program``, its collectives expanded or the library's.

    With ``one_lane`` a rank does all its ops in the order of the program, as where nothing
    moves during compute; else its two lanes are independent.
    """
    world = _World(program, costs, simpy.Environment(), keeps_spans)
    lanes = []
    for rank in range(program.mesh.world_size):
        if one_lane:
            lanes.append(_Rank(world, rank).run(program.ops(rank)))
        else:
            state = _Rank(world, rank)
            ops = list(program.ops(rank))
            lanes += [state.run(iter([op for op in ops if lane_of(op) is lane])) for lane in Lane]
    processes = [world.env.process(lane) for lane in lanes]
    world.env.run()
    if any(process.is_alive for process in processes):
        raise ValueError("the program deadlocks; check_program says where")
    compute_s = max(world.compute_s.values(), default=0.0)
    return StepTimes(world.env.now, compute_s, tuple(world.spans))


@dataclass(slots=True)
class _Meeting:
    """A collective under way: how many ranks are there, and the event of its end."""

    end: simpy.Event
    num_arrived: int = 0


@dataclass(slots=True)
class _Message:
    source: int
    arrived: simpy.Event


@dataclass(slots=True)
class _World:
    """What all ranks share."""

    program: Program
    costs: Costs
    env: simpy.Environment
    keeps_spans: bool
    spans: list[Span] = field(default_factory=list)
    compute_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    ports: dict[tuple[str, Tier, int], simpy.Resource] = field(default_factory=dict)
    mail: dict[tuple[int, int], deque[_Message]] = field(
        default_factory=lambda: defaultdict(deque)
    )  # by (destination, tag)
    posted: dict[int, simpy.Event] = field(default_factory=dict)  # by destination: new mail
    meetings: dict[tuple[Axis, int, str], _Meeting] = field(default_factory=dict)

    def port(self, direction: str, tier: Tier, owner: int) -> simpy.Resource:
        """Return the port of a rank (inside a node) or of a node (between nodes)."""
        key = (direction, tier, owner)
        if key not in self.ports:
            self.ports[key] = simpy.Resource(self.env)
        return self.ports[key]

    def transfer(self, message: _Message, dest: int, nbytes: int) -> Events:
        """Carry ``message`` to ``dest``."""
        fabric = self.costs.fabric
        tier = fabric.tier(message.source, dest)
        latency_s, transfer_s = self.costs.message(nbytes, tier)
        ends = (message.source, dest) if tier is Tier.NODE else (fabric.node(message.source), fabric.node(dest))  # fmt: skip
        yield self.env.timeout(latency_s)
        with self.port("out", tier, ends[0]).request() as out:
            yield out
            with self.port("in", tier, ends[1]).request() as into:
                yield into
                yield self.env.timeout(transfer_s)
        message.arrived.succeed()

    def post(self, message: _Message, dest: int, tag: int, nbytes: int) -> None:
        """Start to carry ``message``, and tell ``dest`` that it will come."""
        self.mail[dest, tag].append(message)
        if (waiting := self.posted.pop(dest, None)) is not None:
            waiting.succeed()
        self.env.process(self.transfer(message, dest, nbytes))

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
        yield self.env.timeout(self.costs.library_s(op, self.program.itemsize))
        meeting.end.succeed()


class _Rank:
    """One rank: what its lanes tell each other."""

    def __init__(self, world: _World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.held = world.program.role_of(rank).nbytes
        self.ended: dict[str, simpy.Event] = {}

    def run(self, ops: Iterator[Op]) -> Events:
        """Do ``ops`` in order."""
        world, env = self.world, self.world.env
        for op in ops:
            start_s = env.now
            match op:
                case Compute():
                    took_s = world.costs.compute_s(op, self.held)
                    world.compute_s[self.rank] += took_s
                    yield env.timeout(took_s)
                    self.end(op.id)
                case Wait(_, id):
                    yield self.event(id)
                case Send(id, part, peer, tag):
                    assert isinstance(peer, Rank)
                    message = _Message(self.rank, env.event())
                    self.ended[id] = message.arrived
                    nbytes = (part.stop - part.start) * world.program.itemsize
                    world.post(message, peer.rank, tag, nbytes)
                case Receive(id):
                    yield from self.receive(op)
                    self.end(id)
                case Accumulate(into):
                    yield env.timeout(world.costs.accumulate_s(into.stop - into.start, self.held))
                case Collective(id, algorithm=Algorithm.LIBRARY):
                    yield from world.meet(self.rank, op)
                    self.end(id)
                case Mark(id):
                    self.end(id)
                case Collective() | Repeat():
                    raise ValueError("simulate reads a program with its collectives expanded")
            if world.keeps_spans and env.now > start_s:
                world.spans.append(Span(self.rank, lane_of(op), span_name(op), start_s, env.now))

    def receive(self, op: Receive) -> Events:
        """Wait until a message that ``op`` accepts is posted, then until it is here."""
        while (message := self.world.take(self.rank, op)) is None:
            waiting = self.world.posted.setdefault(self.rank, self.world.env.event())
            yield waiting
        yield message.arrived

    def event(self, id: str) -> simpy.Event:
        """Return the event that the op called ``id`` has ended."""
        return self.ended.setdefault(id, self.world.env.event())

    def end(self, id: str) -> None:
        """Say that the op called ``id`` has ended."""
        event = self.event(id)
        if not event.triggered:
            event.succeed()


def span_name(op: Op) -> str:
    """Return what the timeline calls ``op``."""
    match op:
        case Compute() | Collective():
            return op.id
        case Receive(id):
            return f"recv {id}"
        case Wait(_, id):
            return f"wait {id}"
        case _:
            return type(op).__name__.lower()
