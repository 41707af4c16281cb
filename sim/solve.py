"""Reader three: a program solved on paper, per role, without events.

A program without *any*-source receives is a max-plus system: every op ends a known time after
the latest of what it waits for. So each role's lanes are walked once, a lane resting where what
it waits for is not known yet, and collectives are closed forms. 65,536 ranks cost no more than
64. Links are shared max-min fairly as in :mod:`sim.network`, but only where it can be told
without events: by all ranks in a step of a collective, by messages that a rank sends one right
after the other, and by those that a rank with a repeat takes so. Other contention between messages
is left out. :mod:`sim.simulate` has all of it, and is never faster where the parts of a plan are
equal (else the largest chunk and the last rank count here; see tests/agreement).

Where ranks take turns in an order that only the run can tell, :mod:`sim.bounds` gives bounds.

Source: F. Baccelli, G. Cohen, G. J. Olsder and J.-P. Quadrat, "Synchronization and Linearity",
Wiley 1992, chapter 2.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice, takewhile

from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Acquire,
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
    Scope,
    Send,
    Wait,
)
from exec.program.peers import AnyRank, At, Part, Peer, Rank, Sender, resolve_peer, split_start
from exec.program.program import Program, Role
from sim.costs import Costs
from sim.priced import Priced, Seconds
from sim.result import StepTimes
from sim.work import Gap, Loop, Run, Step, runs


@dataclass(slots=True)
class _Walk:
    """What is known of one role so far."""

    role: Role
    rank: int  # the rank that stands for all of the role
    slowness: float
    ended_s: dict[str, Seconds] = field(default_factory=dict)
    sent: dict[int, list["_Sent"]] = field(default_factory=lambda: defaultdict(list))  # by tag
    taken: dict[tuple[int, int], int] = field(
        default_factory=lambda: defaultdict(int)
    )  # by source and tag
    latest: dict[str, "_Sent"] = field(default_factory=dict)  # by the id of the send
    free_s: dict[int, Seconds] = field(default_factory=lambda: defaultdict(float))  # by destination
    compute_s: Seconds = 0.0
    finish_s: Seconds = 0.0


@dataclass(slots=True)
class _Sent:
    """A message of ``nbytes`` sent at ``sent_s`` by a rank to one with ``index`` along ``axis``.

    Without an index it is for any that expects it. Its flow starts at ``start_s`` and would end at
    ``end_s`` if no other rank's were in its way. If it ``is_held`` until its receive is posted, it
    takes ``took_s`` from then on, after its latency.
    """

    walk: _Walk
    id: str
    dest: int
    axis: Axis
    index: int | None
    nbytes: float
    sent_s: Seconds
    is_held: bool
    start_s: Seconds = 0.0
    end_s: Seconds = 0.0
    took_s: Seconds = 0.0


def solve(program: Program, costs: Costs, *, one_lane: bool) -> StepTimes:
    """Return the times of one step of ``program``, its collectives not expanded.

    With ``one_lane`` a rank does all its ops in the order of the program, as where nothing
    moves during compute; else its two lanes are independent.
    """
    compute_s, step_s = _solved(program, Priced((costs,)), one_lane=one_lane)
    return StepTimes(float(step_s), float(compute_s))


def solve_each(program: Program, costs: Sequence[Costs], *, one_lane: bool) -> list[StepTimes]:
    """Return what :func:`solve` does for each of ``costs``, which may differ by what things take only.

    One walk tells them all: who waits for what is the same, and a time is an array of one for each.
    """
    if len(costs) < 2:
        return [solve(program, each, one_lane=one_lane) for each in costs]
    compute_s, step_s = _solved(program, Priced(costs), one_lane=one_lane)
    return [StepTimes(float(step), float(compute)) for step, compute in zip(_each(step_s, costs), _each(compute_s, costs), strict=True)]  # fmt: skip


def _each(time_s: Seconds, costs: Sequence[Costs]) -> list[float]:
    return [time_s] * len(costs) if isinstance(time_s, float) else list(time_s)


def _solved(program: Program, priced: Priced, *, one_lane: bool) -> tuple[Seconds, Seconds]:
    """Return what the rank that has most computes, and the step's time."""
    costs = priced.costs[0]
    for rank in costs.unlike_ranks():
        program = program.isolated(rank)
    walks = list(_walks(program, costs))
    solver = _Solver(program, costs, priced, walks, costs.num_savers(program))
    lanes = []
    for walk in walks:
        for lane in (None,) if one_lane else Lane:
            lanes.append(solver.walk(walk, runs(walk.role.ops, lane)))
    while lanes:
        resting = [lane for lane in lanes if next(lane, _END) is not _END]
        if len(resting) == len(lanes) and not solver.has_moved:
            raise ValueError("the program deadlocks; check_program says where")
        solver.has_moved = False
        lanes = resting
    latest = priced.latest
    return reduce(latest, (walk.compute_s for walk in walks)), reduce(latest, (walk.finish_s for walk in walks))  # fmt: skip


def _walks(program: Program, costs: Costs) -> Iterator[_Walk]:
    """Yield the walks of the ranks that stand for roles.

    Where some rank talks to many one after the other, each of them has its turn, and stands for
    itself; of very many the last stands for all.
    """
    has_turns = any(_sends(op) for each in program.roles for op in each.ops)
    for role in program.roles:
        if has_turns and 1 < role.num_ranks <= _MAX_APART:
            for rank in program.ranks_of(role):
                alone = role
                for axis, own in zip(Axis, program.mesh.coordinates(rank), strict=True):
                    alone = alone.narrowed(axis, range(own, own + 1))
                yield _Walk(alone, rank, costs.slowness_of(rank))
            continue
        is_last = has_turns and role.num_ranks > 1
        rank = max(program.ranks_of(role)) if is_last else next(iter(program.ranks_of(role)))
        yield _Walk(role, rank, costs.slowness_of(rank))


def _sends(op: Op) -> bool:
    """Say whether ``op`` repeats messages; sums of windows are every rank's alike."""
    return isinstance(op, Repeat) and any(isinstance(each, Send | Receive) for each in op.body)


_MAX_APART = 512
_END = object()


@dataclass(slots=True)
class _Solver:
    program: Program
    costs: Costs  # of all that are priced the first: what messages meet is alike
    priced: Priced
    walks: list[_Walk]
    num_savers: int  # on one node
    has_moved: bool = False
    _arrived_s: dict[str, dict[int, Seconds]] = field(default_factory=lambda: defaultdict(dict))
    _known: dict[int, _Walk] = field(default_factory=dict)  # by rank
    _groups: dict[tuple[int, Axis, Scope], list[int]] = field(default_factory=dict)

    def walk(self, walk: _Walk, steps: tuple[Step, ...]) -> Iterator[None]:
        """Do ``steps``; yield wherever something is not known yet."""
        now_s: Seconds = 0.0
        held, latest, priced = walk.role.nbytes, self.priced.latest, self.priced
        ordered = list(_unrolled(steps))
        arrivals_s: dict[int, Seconds] = {}
        for place, (step, _) in enumerate(ordered):
            match step:
                case Run(tally, id):
                    took_s = priced.work_s(tally, held) * walk.slowness
                    walk.compute_s = walk.compute_s + took_s
                    now_s = now_s + took_s
                    walk.ended_s[id] = now_s
                case Wait(_, id):
                    while id not in walk.ended_s:
                        yield
                    now_s = latest(now_s, walk.ended_s[id])
                case Send():
                    if not (place and isinstance(ordered[place - 1][0], Send)):
                        sends = takewhile(lambda each: isinstance(each[0], Send), islice(ordered, place, None))  # fmt: skip
                        self._send(walk, list(sends), now_s)
                case Receive(id):
                    if place not in arrivals_s:
                        run = self._run(ordered, place)
                        if self.costs.has_limits:
                            for count in range(1, len(run) + 1):
                                while (messages := self._messages(walk, run[:count])) is None:
                                    yield
                                if messages[-1].is_held:  # it comes alone
                                    run = run[: max(1, count - 1)]
                                    break
                        while (messages := self._messages(walk, run)) is None:
                            yield
                        self._take(walk, run)
                        ends_s = self._arrivals_s(walk, messages, now_s)
                        arrivals_s |= zip((at for at, _, _ in run), ends_s, strict=True)
                    now_s = latest(now_s, arrivals_s[place])
                    walk.ended_s[id] = now_s
                case Collective(id):
                    arrived_s = self._arrived_s[id]
                    arrived_s[walk.rank] = now_s
                    group = self._group(walk, step)
                    self.has_moved = True
                    while any(rank not in arrived_s for rank in group):
                        yield
                    now_s = reduce(latest, (arrived_s[rank] for rank in group))
                    now_s = now_s + priced.collective_s(step, self.program.itemsize, walk.rank, held)  # fmt: skip
                    walk.ended_s[id] = now_s
                case Mark(id):
                    walk.ended_s[id] = now_s
                case Save(_, nbytes):
                    now_s = now_s + priced.save_s(nbytes, self.num_savers)
                    walk.ended_s[step.id] = now_s
                case Accumulate(into, _, peer) if peer is not None:
                    itemsize = self.program.itemsize
                    now_s = now_s + priced.window_s(chunk_size(into), itemsize, held)
                case Accumulate(into):
                    now_s = now_s + priced.accumulate_s(chunk_size(into), held)
                case Scale(part):
                    now_s = now_s + priced.accumulate_s(part.size, held)
                case Gap():
                    pass
                case Grant() | Acquire() | Release():
                    raise ValueError(f"{step} has no closed form; sim.bounds bounds it")
                case Repeat() | Loop() | Compute():
                    raise ValueError("a repeat must not hold another repeat")
            self.has_moved = True
        walk.finish_s = latest(walk.finish_s, now_s)

    def _send(self, walk: _Walk, sends: Sequence[tuple[Step, int | None]], now_s: Seconds) -> None:
        """Post messages that follow each other at once, and so share what they have in common."""
        run = [self._sent(walk, op, iteration, now_s) for op, iteration in sends if isinstance(op, Send)]  # fmt: skip
        for each in run:
            latency_s, each.took_s = self.priced.alone(each.nbytes, walk.rank, each.dest)
            each.start_s = now_s + latency_s
            if not each.is_held:
                each.start_s = self.priced.latest(each.start_s, walk.free_s[each.dest])
                each.end_s = walk.free_s[each.dest] = each.start_s + each.took_s
        if len(run) > 1:
            starts_s = [each.start_s for each in run]
            asked = [(each.nbytes, walk.rank, each.dest) for each in run]
            for each, end_s in zip(run, self.priced.sent_s(starts_s, asked), strict=True):
                each.took_s = end_s - each.start_s
                if not each.is_held:
                    each.end_s = walk.free_s[each.dest] = end_s
        for each in run:
            walk.latest[each.id] = each
            walk.ended_s.pop(each.id, None)
            if not each.is_held:
                walk.ended_s[each.id] = each.end_s

    def _sent(self, walk: _Walk, op: Send, iteration: int | None, now_s: Seconds) -> _Sent:
        dest = self._peer(walk, op.peer, iteration or 0)
        if self.program.role_of(dest) is self.program.role_of(walk.rank):
            raise ValueError("ranks of one role talk to each other: solve reads a program before its collectives are expanded")  # fmt: skip
        axis = Axis.DP if isinstance(op.peer, Rank | AnyRank | Sender) else op.peer.axis
        is_one = iteration is not None or isinstance(op.peer, At)
        index = self.program.mesh.coordinate(dest, axis) if is_one else None
        nbytes = op.part.size * self.program.itemsize
        is_held = self.costs.waits_for_receive(nbytes, walk.rank, dest)
        sent = _Sent(walk, op.id, dest, axis, index, nbytes, now_s, is_held)
        walk.sent[op.tag].append(sent)
        return sent

    def _run(
        self, ordered: list[tuple[Step, int | None]], place: int
    ) -> list[tuple[int, Receive, int | None]]:
        """Return the receive at ``place``, and those that follow with nothing but sums between.

        Only of a rank that takes from many in a repeat is it known that none of them waits for
        what this rank does between two of them.
        """
        run: list[tuple[int, Receive, int | None]] = []
        for at, (op, iteration) in enumerate(islice(ordered, place, None), place):
            if isinstance(op, Receive):
                run.append((at, op, iteration))
            elif not isinstance(op, Accumulate):
                break
        return run if any(iteration is not None for _, _, iteration in run) else run[:1]

    def _messages(
        self, walk: _Walk, run: list[tuple[int, Receive, int | None]]
    ) -> list[_Sent] | None:
        """Return the messages that the receives of ``run`` take, None if one is not sent yet."""
        taken, found = dict(walk.taken), []
        for _, op, iteration in run:
            source = self._source(walk, op, iteration)
            key = self._peer(walk, op.peer, iteration or 0), op.tag
            message = self._next(walk, source.sent[op.tag], taken.get(key, 0))
            if message is None:
                return None
            taken[key] = taken.get(key, 0) + 1
            found.append(message)
        return found

    def _take(self, walk: _Walk, run: list[tuple[int, Receive, int | None]]) -> None:
        """Count the messages of ``run`` as taken."""
        for _, op, iteration in run:
            walk.taken[self._peer(walk, op.peer, iteration or 0), op.tag] += 1

    def _arrivals_s(self, walk: _Walk, messages: list[_Sent], now_s: Seconds) -> list[Seconds]:
        """Return when ``messages`` are here: they share what they have in common of their ways.

        A message that is held comes alone.
        """
        if len(messages) > 1:
            flows = [(each.start_s, each.end_s) for each in messages]
            asked = [(each.nbytes, each.walk.rank, walk.rank) for each in messages]
            return self.priced.arrived_s(flows, asked)
        message, latest = messages[0], self.priced.latest
        if message.is_held:
            sender = message.walk
            latency_s, alone_s = self.priced.alone(message.nbytes, sender.rank, walk.rank)
            start_s = latest(latest(message.sent_s, now_s) + latency_s, sender.free_s[message.dest])
            message.end_s = start_s + latest(alone_s, message.took_s)
            sender.free_s[message.dest] = message.end_s
            if sender.latest[message.id] is message:
                ended_s = sender.ended_s.get(message.id, 0.0)
                sender.ended_s[message.id] = latest(message.end_s, ended_s)
        return [message.end_s]

    def _next(self, walk: _Walk, sent: list[_Sent], taken: int) -> _Sent | None:
        """Return the message that ``walk`` takes next of those ``sent``, if it is there."""
        mesh = self.program.mesh
        for message in sent:
            if message.index in (None, mesh.coordinate(walk.rank, message.axis)):
                if not taken:
                    return message
                taken -= 1
        return None

    def _peer(self, walk: _Walk, peer: Peer, iteration: int) -> int:
        resolved = resolve_peer(peer, walk.rank, self.program.mesh, iteration)
        if not isinstance(resolved, Rank):
            raise ValueError("a message from or to any rank has no closed form; sim.bounds bounds it")  # fmt: skip
        return resolved.rank

    def _source(self, walk: _Walk, op: Receive, iteration: int | None) -> _Walk:
        """Return the walk of the role that the source of ``op`` plays."""
        rank = self._peer(walk, op.peer, iteration or 0)
        if rank not in self._known:
            dp, pp, tp = self.program.mesh.coordinates(rank)
            self._known[rank] = next(
                each
                for each in self.walks
                if dp in each.role.dp and pp in each.role.pp and tp in each.role.tp
            )
        return self._known[rank]

    def _group(self, walk: _Walk, op: Collective) -> list[int]:
        """Return the ranks that stand for the roles in the group of ``walk`` that does ``op``.

        A rank that stands for several stands for them on all nodes.
        """
        axis, mesh = op.axis, self.program.mesh
        if (walk.rank, axis, op.scope) not in self._groups:
            coordinates = dict(zip(Axis, mesh.coordinates(walk.rank), strict=True))
            others = [other for other in Axis if other is not axis]
            self._groups[walk.rank, axis, op.scope] = [
                each.rank
                for each in self.walks
                if all(coordinates[other] in each.role.span(other) for other in others)
                and (walk.role.num_ranks > 1 or each.role.num_ranks > 1
                     or _meets(op, coordinates[axis], mesh.coordinate(each.rank, axis)))
            ]  # fmt: skip
        return self._groups[walk.rank, axis, op.scope]


def _meets(op: Collective, own: int, other: int) -> bool:
    """Say whether the ranks at two coordinates along the axis of ``op`` do it together."""
    match op.scope:
        case Scope.ALL:
            return True
        case Scope.INSIDE:
            return own // op.node_size == other // op.node_size
        case Scope.BETWEEN:
            return own % op.node_size == other % op.node_size


def _unrolled(steps: tuple[Step, ...]) -> Iterator[tuple[Step, int | None]]:
    """Yield each step, with the iteration if it is in a repeat."""
    for step in steps:
        if isinstance(step, Loop):
            for iteration in range(step.count):
                for inner in step.body:
                    yield inner, iteration
        else:
            yield step, None


def chunk_size(part: Part) -> int:
    """Return the size of the largest chunk of ``part``."""
    if part.chunks is None:
        return part.size
    units = part.size // part.unit
    return split_start(units, part.chunks.num_chunks, part.chunks.width) * part.unit
