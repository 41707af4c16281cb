"""Code: what lanes do, op by op; what two roles do alike is one object, so that it can be told.

It is bound once to its costs (:mod:`sim.bound_ops`). A step's ``op`` says in symbols what its verb
says of one rank.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from exec.program.mesh import Mesh
from exec.program.ops import Accumulate, Collective, Op, Receive, Scale, Send
from exec.program.peers import At, Part, Peer, Shift, Xor
from exec.program.program import Program, Role
from sim.arrays.irregular import IrregularError
from sim.arrays.ways import chunk_sizes
from sim.bound_ops import Await, Bound, End, Post, Sum, Take, Verb, Work, Works, bind
from sim.costs import Costs

Named = Shift | Xor | At
"""A peer that the program names by its coordinate."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One thing to do; ``part`` is what is added or sent, and ``peer`` to or from whom."""

    verb: Verb
    op: Op
    part: Part | None
    peer: Named | None


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """``body``, ``count`` times."""

    count: int
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """What a role does: the loops of each of its lanes, and how often it does it all."""

    role: Role
    lanes: tuple[tuple[Loop, ...], ...]
    num_slots: int
    times: int


def codes_of(program: Program, costs: Costs, *, one_lane: bool) -> list[Code]:
    """Return the code of each role of ``program``, its collectives expanded.

    Raises:
        IrregularError: ranks act in an order that only the run of each of them can tell.
    """
    steps: dict[Hashable, Step] = {}
    loops: dict[Hashable, Loop] = {}
    codes = []
    for role in program.roles:
        bound = bind(program, role, costs, one_lane=one_lane)
        lanes = []
        for lane in bound.lanes:
            own = []
            for loop in lane:
                body = tuple(_step(each, role, program.mesh, steps) for each in loop.body)
                key = loop.count, *map(id, body)
                own.append(loops.setdefault(key, Loop(loop.count, body)))
            lanes.append(tuple(own))
        codes.append(Code(role, tuple(lanes), bound.num_slots, role.times))
    return codes


def next_of(codes: Sequence[Code], lane: int, loop: int, at: int) -> list[Hashable]:
    """Return marks of what each of ``codes`` does next, equal where they cannot be told apart."""
    loops = [code.lanes[lane][loop : loop + 1] for code in codes]
    if all(each == loops[0] for each in loops):
        return [None] * len(codes)
    return [
        (id(each[0].body[at]), each[0].count, at + 1 == len(each[0].body)) if each else None
        for each in loops
    ]


def _step(bound: Bound, role: Role, mesh: Mesh, known: dict[Hashable, Step]) -> Step:
    """Return the step of ``bound``, one for all that cannot be told apart."""
    verb, op = bound.verb, bound.op
    part: Part | None = None
    peer: Peer | None = None
    match verb, op:
        case Work(seconds, is_paced), _:
            key: Hashable = Work, seconds, is_paced
        case Works(parts), _:
            key = Works, parts
        case Await(slot) | End(slot), _:
            key = type(verb), slot
        case Sum(), Accumulate(part) | Scale(part):
            key = Sum, _shape(part), *map(verb.seconds_of, _sizes(part, mesh))
        case Post(slot, tag), Send(_, part, peer) if isinstance(peer, Named):
            key = Post, slot, tag, _shape(part), peer
        case Take(tag), Receive(peer=peer) if isinstance(peer, Named):
            key = Take, tag, peer
        case Collective(), Collective(id, kind, part, axis):
            key = Collective, id, kind, part.size, axis
        case _:
            raise IrregularError(f"ranks of {role.name} act in an order that only a run can tell")
    assert peer is None or isinstance(peer, Named)
    return known.setdefault(key, Step(verb, op, part, peer))


def _sizes(part: Part, mesh: Mesh) -> list[int]:
    """Return what sizes the chunks of ``part`` have."""
    assert part.chunks is not None
    found: list[int] = np.unique(chunk_sizes(part, mesh.size(part.chunks.anchor.axis))).tolist()
    return found


def _shape(part: Part) -> Hashable:
    return part.size, part.unit, part.chunks
