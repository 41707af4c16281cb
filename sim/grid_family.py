"""Families: plans whose ranks do the same ops in the same order, and differ in numbers only.

A replica's ops depend on its own rows and on whether there are others, not on how many: so the
program of two replicas stands for that of any number of them with as many rows each.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache

from exec.network.network import Network
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
from exec.program.program import Role
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

    def structure(self) -> tuple[object, ...]:
        """Return what must be equal where ranks are walked together."""
        return tuple((each.kind, each.lane, each.id, each.other, each.tag, each.op and each.op.axis) for each in self.turns)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replica:
    """The parts of one replica, by stage and then by tp coordinate, and how they are structured."""

    parts: tuple[tuple[Part, ...], ...]
    structure: tuple[object, ...]


@lru_cache(maxsize=4096)
def replica_of(family: Family, rows: int) -> Replica | None:
    """Return what a replica of ``rows`` samples does; None where its ranks cannot be walked together."""
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
    return Replica(stages, (tuple(structure), tuple(spans)))


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
                tuple(sent), role.nbytes)  # fmt: skip


def family_of(workload: Workload, mesh: Mesh, options: PlanOptions) -> Family:
    """Return the family of the plan of a synchronous step."""
    plain = replace(options, algorithm=Algorithm.LIBRARY)
    return Family(workload.network, workload.itemsize, workload.has_momentum, plain, mesh.dp > 1,
                  mesh.pp, mesh.tp)  # fmt: skip
