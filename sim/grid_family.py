"""Families: plans whose ranks do the same ops in the same order, and differ in numbers only.

A replica's ops depend on its own rows and on whether there are others, not on how many: so the
program of two replicas stands for that of any number of them with as many rows each.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from exec.network.network import Network
from exec.plan.nodes import node_size
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import (
    Algorithm,
    Collective,
    Compute,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Send,
    Shape,
    Wait,
    lane_of,
)
from exec.program.peers import At
from exec.program.program import Program, Role
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Family:
    """All that says which ops there are, but for the rows of a replica.

    ``options`` have the library's algorithm: another one only takes another time.
    """

    network: Network
    itemsize: int
    has_momentum: bool
    options: PlanOptions
    has_replicas: bool
    pp: int
    tp: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that a rank does: its ``kind``, its lane, and what it is called.

    ``number`` counts the turns of its kind. ``other`` is the stage that a message is from or for.
    """

    kind: type[Op]
    lane: Lane
    id: str
    number: int = 0
    other: int = 0
    tag: int = 0
    op: Collective | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What the ranks of a stage and of the tp coordinates ``tp`` do, with the numbers in it.

    ``computed`` are the kernels and shapes of each turn that computes, one after the other;
    ``collectives`` the turns that a group takes together, ``sent`` the bytes of each message and the stage that it is for.
    """

    stage: int
    tp: range
    turns: tuple[Turn, ...]
    computed: tuple[tuple[tuple[Kernel, Shape], ...], ...]
    collectives: tuple[Collective, ...]
    sent: tuple[tuple[int, int], ...]
    nbytes: int
    ops: tuple[Op, ...]

    def structure(self) -> tuple[object, ...]:
        """Return what must be equal where ranks are walked together."""
        return tuple((each.kind, each.lane, each.id, each.other, each.tag, each.op and each.op.axis) for each in self.turns)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replica:
    """The parts of one replica, by stage and then by tp coordinate."""

    parts: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """How a batch is shared: a replica of each kind, one more sample first where it does not divide.

    Shares of equal ``structure`` are walked together, those of equal ``traffic`` send and reduce the
    same. ``nbytes`` is what the rank holds that holds most.
    """

    replicas: tuple[Replica, ...]
    structure: tuple[object, ...]
    traffic: tuple[object, ...]
    nbytes: int


@dataclass(slots=True)
class Shares:
    """The shares of the batches of one family, each made once."""

    family: Family
    _replicas: dict[int, tuple[Replica, tuple[object, ...]] | None] = field(default_factory=dict)
    _shares: dict[tuple[int, bool], Share | None] = field(default_factory=dict)
    _alike: dict[tuple[object, ...], tuple[object, ...]] = field(default_factory=dict)

    def of(self, rows: int, *, has_more: bool) -> Share | None:
        """Return how replicas share a batch of ``rows`` samples each, of which some have one more.

        None where their ranks cannot be walked together. Of equal structures and traffics, one object
        stands for all.
        """
        key = rows, has_more
        if key not in self._shares:
            self._shares[key] = self._of((rows + 1, rows) if has_more else (rows,))
        return self._shares[key]

    def _of(self, each_rows: tuple[int, ...]) -> Share | None:
        found = []
        for rows in each_rows:
            if rows not in self._replicas:
                self._replicas[rows] = _replica(self.family, rows)
            found.append(self._replicas[rows])
        told = [each for each in found if each is not None]
        if len(told) < len(found) or any(structure != told[0][1] for _, structure in told):
            return None
        replicas, structure = tuple(replica for replica, _ in told), (len(told), *told[0][1])
        parts = [part for replica in replicas for stage in replica.parts for part in stage]
        traffic = tuple((part.collectives, part.sent) for part in parts)
        return Share(replicas, self._alike.setdefault(structure, structure),
                     self._alike.setdefault(traffic, traffic), max(part.nbytes for part in parts))  # fmt: skip


def program_of(share: Share, mesh: Mesh, itemsize: int, options: PlanOptions, more: int) -> Program:
    """Return the program of the step that is so shared; ``more`` replicas have one sample more."""
    first = more or mesh.dp
    roles = []
    for stage in range(mesh.pp):
        for replica, dp in zip(share.replicas, (range(first), range(first, mesh.dp)), strict=False):
            for part in replica.parts[stage]:
                ops = tuple(done_by(op, mesh, options) if isinstance(op, Collective) else op for op in part.ops)  # fmt: skip
                roles.append(Role("", dp, range(stage, stage + 1), part.tp, ops, nbytes=part.nbytes))  # fmt: skip
    return Program(mesh, itemsize, tuple(roles))


def done_by(op: Collective, mesh: Mesh, options: PlanOptions) -> Collective:
    """Return ``op`` by the algorithm of ``options``."""
    algorithm = options.algorithm
    if algorithm is Algorithm.LIBRARY:
        return op
    size = 1
    if algorithm is Algorithm.HIERARCHICAL:
        size = node_size(mesh, op.axis, options.ranks_per_node)
    return replace(op, algorithm=algorithm, node_size=size)


def _replica(family: Family, rows: int) -> tuple[Replica, tuple[object, ...]] | None:
    """Return what a replica of ``rows`` samples does, and how that is structured.

    None where its ranks cannot be walked together.
    """
    count = 2 if family.has_replicas else 1
    workload = Workload(family.network, rows * count, family.itemsize, family.has_momentum)
    program = plan_step(workload, Mesh(count, family.pp, family.tp), family.options)
    found: dict[int, list[Part]] = defaultdict(list)
    for role in program.roles:
        found[role.pp.start].append(_part(role, family.itemsize))
    stages = tuple(tuple(found[stage]) for stage in range(family.pp))
    spans = [part.tp for part in stages[0]]
    structure = []
    for parts in stages:
        structure.append(parts[0].structure())
        is_alike = all(part.structure() == structure[-1] for part in parts)
        if not is_alike or [part.tp for part in parts] != spans:
            return None
    return Replica(stages), (tuple(structure), tuple(spans))


def _part(role: Role, itemsize: int) -> Part:
    """Return ``role`` with ops that compute one behind the other, and nobody waits for, as one turn."""
    awaited = {op.id for op in role.ops if isinstance(op, Wait)}
    turns: list[Turn] = []
    computed: list[list[tuple[Kernel, Shape]]] = []
    collectives: list[Collective] = []
    sent: list[tuple[int, int]] = []
    is_open = False
    for op in role.ops:
        lane = lane_of(op)
        match op:
            case Compute():
                if not is_open:
                    turns.append(Turn(Compute, lane, "", len(computed)))
                    computed.append([])
                computed[-1].append((op.kernel, op.shape))
                is_open = op.id not in awaited
                if not is_open:
                    turns[-1] = replace(turns[-1], id=op.id)
                continue
            case Collective():
                turns.append(Turn(Collective, lane, op.id, len(collectives), op=op))
                collectives.append(op)
            case Send(id, part, At(_, stage), tag):
                turns.append(Turn(Send, lane, id, len(sent), stage, tag))
                sent.append((part.size * itemsize, stage))
            case Receive(id, _, At(_, stage), tag):
                turns.append(Turn(Receive, lane, id, 0, stage, tag))
            case Wait(_, id):
                turns.append(Turn(Wait, lane, id))
            case Mark(id):
                turns.append(Turn(Mark, lane, id))
            case _:
                raise ValueError(f"a synchronous step must not hold {op}")
        is_open = False
    return Part(role.pp.start, role.tp, tuple(turns), tuple(map(tuple, computed)), tuple(collectives),
                tuple(sent), role.nbytes, role.ops)  # fmt: skip


def family_of(workload: Workload, mesh: Mesh, options: PlanOptions) -> Family:
    """Return the family of the plan of a synchronous step."""
    plain = replace(options, algorithm=Algorithm.LIBRARY)
    return Family(workload.network, workload.itemsize, workload.has_momentum, plain, mesh.dp > 1,
                  mesh.pp, mesh.tp)  # fmt: skip
