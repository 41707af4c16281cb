"""Reader three: a program solved on paper, per role, without events.

A program without *any*-source receives is a max-plus system: every op ends a known time after
the latest of what it waits for. So each role's lanes are walked once, a lane resting where what
it waits for is not known yet, and collectives are closed forms. 65,536 ranks cost no more than
64. Contention between messages of different ranks is left out, but for the ranks that share a
node's link in a collective step, and for messages that a rank takes from many in a repeat, which
pass its link one by one. :mod:`sim.simulate` has all of it, and is never faster where the parts
of a plan are equal (else the largest chunk and the last rank count here; see tests/agreement).

Where ranks take turns in an order that only the run can tell, :mod:`sim.bounds` gives bounds.

Source: F. Baccelli, G. Cohen, G. J. Olsder and J.-P. Quadrat, "Synchronization and Linearity",
Wiley 1992, chapter 2.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Acquire,
    Algorithm,
    Collective,
    CollectiveKind,
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
from exec.program.peers import AnyRank, At, Part, Peer, Rank, Sender, resolve_peer
from exec.program.program import Program, Role
from sim.collectives import allgather_s, allreduce_s, hierarchical_s
from sim.costs import Costs
from sim.fabric import Pattern
from sim.result import StepTimes


@dataclass(slots=True)
class _Walk:
    """What is known of one role so far."""

    role: Role
    rank: int  # the rank that stands for all of the role
    slowness: float
    ended_s: dict[str, float] = field(default_factory=dict)
    sent: dict[int, list["_Sent"]] = field(default_factory=lambda: defaultdict(list))  # by tag
    taken: dict[tuple[int, int], int] = field(
        default_factory=lambda: defaultdict(int)
    )  # by source and tag
    out_free_s: float = 0.0
    in_free_s: float = 0.0
    compute_s: float = 0.0
    finish_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message that may pass a link from ``ready_s`` on.

    It is for the ranks with coordinate ``index`` along ``axis``, or for any that expects it.
    """

    axis: Axis
    index: int | None
    ready_s: float
    transfer_s: float


def solve(program: Program, costs: Costs, *, one_lane: bool) -> StepTimes:
    """Return the times of one step of ``program``, its collectives not expanded.

    With ``one_lane`` a rank does all its ops in the order of the program, as where nothing
    moves during compute; else its two lanes are independent.
    """
    for rank in costs.slowness:
        program = program.isolated(rank)
    walks = list(_walks(program, costs))
    solver = _Solver(program, costs, walks, costs.num_savers(program))
    lanes = []
    for walk in walks:
        if one_lane:
            lanes.append(solver.walk(walk, walk.role.ops))
        else:
            for lane in Lane:
                ops = tuple(op for op in walk.role.ops if lane_of(op) is lane)
                lanes.append(solver.walk(walk, ops))
    while lanes:
        resting = [lane for lane in lanes if next(lane, _END) is not _END]
        if len(resting) == len(lanes) and not solver.has_moved:
            raise ValueError("the program deadlocks; check_program says where")
        solver.has_moved = False
        lanes = resting
    return StepTimes(max(walk.finish_s for walk in walks), max(walk.compute_s for walk in walks))


def _walks(program: Program, costs: Costs) -> Iterator[_Walk]:
    """Yield the walks of the ranks that stand for roles.

    Where some rank talks to many one after the other, each of them has its turn, and stands for
    itself; of very many the last stands for all.
    """
    has_turns = any(isinstance(op, Repeat) for each in program.roles for op in each.ops)
    for role in program.roles:
        if has_turns and 1 < role.num_ranks <= _MAX_APART:
            for rank in program.ranks_of(role):
                alone = role
                for axis, own in zip(Axis, program.mesh.coordinates(rank), strict=True):
                    alone = alone.narrowed(axis, range(own, own + 1))
                yield _Walk(alone, rank, costs.slowness.get(rank, 1.0))
            continue
        is_last = has_turns and role.num_ranks > 1
        rank = max(program.ranks_of(role)) if is_last else next(iter(program.ranks_of(role)))
        yield _Walk(role, rank, costs.slowness.get(rank, 1.0))


_MAX_APART = 512
_END = object()


@dataclass(slots=True)
class _Solver:
    program: Program
    costs: Costs
    walks: list[_Walk]
    num_savers: int  # on one node
    has_moved: bool = False
    _arrived_s: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    _known: dict[int, _Walk] = field(default_factory=dict)  # by rank
    _groups: dict[tuple[int, Axis], list[int]] = field(default_factory=dict)

    def walk(self, walk: _Walk, ops: tuple[Op, ...]) -> Iterator[None]:
        """Do ``ops``; yield wherever something is not known yet."""
        now_s, held = 0.0, walk.role.nbytes
        for op, iteration in _unrolled(ops):
            match op:
                case Compute():
                    took_s = self.costs.compute_s(op, held) * walk.slowness
                    walk.compute_s += took_s
                    now_s += took_s
                    walk.ended_s[op.id] = now_s
                case Wait(_, id):
                    while id not in walk.ended_s:
                        yield
                    now_s = max(now_s, walk.ended_s[id])
                case Send():
                    self._send(walk, op, now_s, iteration)
                case Receive(id, _, _, tag):
                    source = self._source(walk, op, iteration)
                    key = self._peer(walk, op.peer, iteration or 0), tag
                    while (message := self._next(walk, source.sent[tag], walk.taken[key])) is None:
                        yield
                    walk.taken[key] += 1
                    now_s = max(now_s, self._arrival_s(walk, message, iteration))
                    walk.ended_s[id] = now_s
                case Collective(id):
                    arrived_s = self._arrived_s[id]
                    arrived_s[walk.rank] = now_s
                    group = self._group(walk, op.axis)
                    self.has_moved = True
                    while any(rank not in arrived_s for rank in group):
                        yield
                    now_s = max(arrived_s[rank] for rank in group)
                    now_s += self._collective_s(op, held)
                    walk.ended_s[id] = now_s
                case Mark(id):
                    walk.ended_s[id] = now_s
                case Save(_, nbytes):
                    now_s += self.costs.save_s(nbytes, self.num_savers)
                    walk.ended_s[op.id] = now_s
                case Accumulate(into):
                    now_s += self.costs.accumulate_s(chunk_size(into), held)
                case Scale(part):
                    now_s += self.costs.accumulate_s(part.size, held)
                case Grant() | Acquire() | Release():
                    raise ValueError(f"{op} has no closed form; sim.bounds bounds it")
                case Repeat():
                    raise ValueError("a repeat must not hold another repeat")
            self.has_moved = True
        walk.finish_s = max(walk.finish_s, now_s)

    def _send(self, walk: _Walk, op: Send, now_s: float, iteration: int | None) -> None:
        """Post the message: after its latency it takes its turn on the rank's own link."""
        dest = self._peer(walk, op.peer, iteration or 0)
        if self.program.role_of(dest) is self.program.role_of(walk.rank):
            raise ValueError("ranks of one role talk to each other: solve reads a program before its collectives are expanded")  # fmt: skip
        nbytes = op.part.size * self.program.itemsize
        latency_s, transfer_s = self.costs.message(nbytes, self.costs.fabric.tier(walk.rank, dest))
        ready_s = max(now_s + latency_s, walk.out_free_s)
        walk.out_free_s = walk.ended_s[op.id] = ready_s + transfer_s
        axis = Axis.DP if isinstance(op.peer, Rank | AnyRank | Sender) else op.peer.axis
        is_one = iteration is not None or isinstance(op.peer, At)
        index = self.program.mesh.coordinate(dest, axis) if is_one else None
        walk.sent[op.tag].append(_Sent(axis, index, ready_s, transfer_s))

    def _arrival_s(self, walk: _Walk, message: _Sent, iteration: int | None) -> float:
        """Return when ``message`` is here; what many ranks send passes this rank's link in turn."""
        alone_s = message.ready_s + message.transfer_s
        if iteration is None:
            walk.in_free_s = max(walk.in_free_s, alone_s)
            return alone_s
        walk.in_free_s = max(walk.in_free_s, message.ready_s) + message.transfer_s
        return walk.in_free_s

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

    def _group(self, walk: _Walk, axis: Axis) -> list[int]:
        """Return the ranks that stand for the roles in the group of ``walk`` along ``axis``."""
        if (walk.rank, axis) not in self._groups:
            coordinates = dict(zip(Axis, self.program.mesh.coordinates(walk.rank), strict=True))
            others = [other for other in Axis if other is not axis]
            self._groups[walk.rank, axis] = [
                each.rank
                for each in self.walks
                if all(coordinates[other] in each.role.span(other) for other in others)
            ]
        return self._groups[walk.rank, axis]

    def _collective_s(self, op: Collective, held: int) -> float:
        ranks = self.program.mesh.size(op.axis)
        if op.algorithm is Algorithm.LIBRARY or ranks == 1:
            return self.costs.library_s(op, self.program.itemsize)
        elements = op.part.size
        fabric, itemsize = self.costs.fabric, self.program.itemsize

        def add(count: int) -> float:
            return self.costs.accumulate_s(count, held)

        def hop(count: int, distance: int, pattern: Pattern) -> float:
            tier, sharers = fabric.hop(op.axis, distance, pattern)
            latency_s, transfer_s = self.costs.message(count * itemsize, tier)
            return latency_s + transfer_s * self.costs.sharing(tier, sharers)

        def inside(count: int) -> tuple[float, float]:
            tier, sharers = fabric.inner_hop(op.axis, op.node_size)
            latency_s, transfer_s = self.costs.message(count * itemsize, tier)
            return latency_s, transfer_s * self.costs.sharing(tier, sharers)

        def between(count: int) -> tuple[float, float]:
            return self.costs.message(count * itemsize, network)

        if op.kind is CollectiveKind.ALLGATHER:
            return allgather_s(elements, op.part.unit, ranks, hop)
        if op.algorithm is Algorithm.HIERARCHICAL:
            network, sharers = fabric.hop(op.axis, op.node_size, Pattern.SHIFT)
            sharers = self.costs.sharing(network, sharers)
            return hierarchical_s(elements, ranks, op.node_size, inside, between, sharers, add)
        return allreduce_s(op.algorithm, elements, ranks, hop, add)


def _unrolled(ops: tuple[Op, ...]) -> Iterator[tuple[Op, int | None]]:
    """Yield each op, with the iteration if it is in a repeat."""
    for op in ops:
        if isinstance(op, Repeat):
            for iteration in range(op.count):
                for inner in op.body:
                    yield inner, iteration
        else:
            yield op, None


def chunk_size(part: Part) -> int:
    """Return the size of the largest chunk of ``part``."""
    if part.chunks is None:
        return part.size
    units = part.size // part.unit
    return -(-units * part.chunks.width // part.chunks.num_chunks) * part.unit
