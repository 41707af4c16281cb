"""Reader three: a program solved on paper, per role, without events.

A program without *any*-source receives is a max-plus system: every op ends a known time after
the latest of what it waits for. So each role's lanes are walked once, a lane resting where what
it waits for is not known yet, and collectives are closed forms. 65,536 ranks cost no more than
64. Contention between messages of different ranks is left out, but for the ranks that share a
node's link in a collective step: :mod:`sim.simulate` has it, and is never faster where the parts
of a plan are equal (else the largest chunk and the last rank count here; see tests/agreement).

Source: F. Baccelli, G. Cohen, G. J. Olsder and J.-P. Quadrat, "Synchronization and Linearity",
Wiley 1992, chapter 2.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
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
from exec.program.peers import Rank, resolve_peer
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
    ended_s: dict[str, float] = field(default_factory=dict)
    sent_s: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # by tag
    taken: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by tag
    link_free_s: float = 0.0
    compute_s: float = 0.0
    finish_s: float = 0.0


def solve(program: Program, costs: Costs, *, one_lane: bool) -> StepTimes:
    """Return the times of one step of ``program``, its collectives not expanded.

    With ``one_lane`` a rank does all its ops in the order of the program, as where nothing
    moves during compute; else its two lanes are independent.
    """
    walks = [_Walk(role, next(iter(program.ranks_of(role)))) for role in program.roles]
    solver = _Solver(program, costs, walks)
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


_END = object()


@dataclass(slots=True)
class _Solver:
    program: Program
    costs: Costs
    walks: list[_Walk]
    has_moved: bool = False
    _arrived_s: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))

    def walk(self, walk: _Walk, ops: tuple[Op, ...]) -> Iterator[None]:
        """Do ``ops``; yield wherever something is not known yet."""
        now_s, held = 0.0, walk.role.nbytes
        for op in ops:
            match op:
                case Compute():
                    took_s = self.costs.compute_s(op, held)
                    walk.compute_s += took_s
                    now_s += took_s
                    walk.ended_s[op.id] = now_s
                case Wait(_, id):
                    while id not in walk.ended_s:
                        yield
                    now_s = max(now_s, walk.ended_s[id])
                case Send(id, _, _, tag):
                    walk.ended_s[id] = self._send_s(walk, op, now_s)
                    walk.sent_s[tag].append(walk.ended_s[id])
                case Receive(id, _, _, tag):
                    sent_s = self._source(walk, op).sent_s[tag]
                    while len(sent_s) <= walk.taken[tag]:
                        yield
                    now_s = max(now_s, sent_s[walk.taken[tag]])
                    walk.taken[tag] += 1
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
                case Accumulate() | Repeat():
                    raise ValueError("solve reads a program before its collectives are expanded")
            self.has_moved = True
        walk.finish_s = max(walk.finish_s, now_s)

    def _send_s(self, walk: _Walk, op: Send, now_s: float) -> float:
        """Return when the message is there: latency, then its turn on the rank's own link."""
        peer = resolve_peer(op.peer, walk.rank, self.program.mesh)
        assert isinstance(peer, Rank)
        nbytes = (op.part.stop - op.part.start) * self.program.itemsize
        tier = self.costs.fabric.tier(walk.rank, peer.rank)
        latency_s, transfer_s = self.costs.message(nbytes, tier)
        walk.link_free_s = max(now_s + latency_s, walk.link_free_s) + transfer_s
        return walk.link_free_s

    def _source(self, walk: _Walk, op: Receive) -> _Walk:
        peer = resolve_peer(op.peer, walk.rank, self.program.mesh)
        if not isinstance(peer, Rank):
            raise ValueError("a receive from any rank has no closed form; simulate it")
        dp, pp, tp = self.program.mesh.coordinates(peer.rank)
        return next(
            each
            for each in self.walks
            if dp in each.role.dp and pp in each.role.pp and tp in each.role.tp
        )

    def _group(self, walk: _Walk, axis: Axis) -> list[int]:
        """Return the ranks that stand for the roles in the group of ``walk`` along ``axis``."""
        coordinates = dict(zip(Axis, self.program.mesh.coordinates(walk.rank), strict=True))
        others = [other for other in Axis if other is not axis]
        return [
            each.rank
            for each in self.walks
            if all(coordinates[other] in each.role.span(other) for other in others)
        ]

    def _collective_s(self, op: Collective, held: int) -> float:
        ranks = self.program.mesh.size(op.axis)
        if op.algorithm is Algorithm.LIBRARY or ranks == 1:
            return self.costs.library_s(op, self.program.itemsize)
        elements = op.part.stop - op.part.start
        fabric, itemsize = self.costs.fabric, self.program.itemsize

        def add(count: int) -> float:
            return self.costs.accumulate_s(count, held)

        def hop(count: int, distance: int, pattern: Pattern) -> float:
            tier, sharers = fabric.hop(op.axis, distance, pattern)
            latency_s, transfer_s = self.costs.message(count * itemsize, tier)
            return latency_s + transfer_s * sharers

        def inside(count: int) -> tuple[float, float]:
            tier, sharers = fabric.inner_hop(op.axis, op.node_size)
            latency_s, transfer_s = self.costs.message(count * itemsize, tier)
            return latency_s, transfer_s * sharers

        def between(count: int) -> tuple[float, float]:
            return self.costs.message(count * itemsize, network)

        if op.kind is CollectiveKind.ALLGATHER:
            return allgather_s(elements, op.part.unit, ranks, hop)
        if op.algorithm is Algorithm.HIERARCHICAL:
            network, sharers = fabric.hop(op.axis, op.node_size, Pattern.SHIFT)
            return hierarchical_s(elements, ranks, op.node_size, inside, between, sharers, add)
        return allreduce_s(op.algorithm, elements, ranks, hop, add)
