"""Folding: of replicas and shards that cannot differ, one is simulated and stands for all.

Along an axis on which no message goes, ranks of one role do the same at the same time, if each has
links of its own, or each replica nodes of its own: whatever meets on the links of one, meets on those
of all. Only collectives of the library join them, which begin when the last is there, so one of
each kind is enough. Noise would tell them apart, so there must be none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from exec.program.mesh import Axis, Mesh
from exec.program.ops import (  # fmt: skip
    Accumulate,
    Algorithm,
    Collective,
    Compute,
    Op,
    Receive,
    Repeat,
    Save,
    Scale,
    Send,
)
from exec.program.peers import AnyRank, Part, Rank, Sender
from exec.program.program import Program, Role
from sim.arrays.pieces import atoms_of
from sim.costs import Costs
from sim.network import Transfer


@dataclass(slots=True)
class FoldedCosts(Costs):
    """The costs of ranks that stand for others: ``originals`` says which they are."""

    originals: tuple[int, ...] = ()
    savers: int = 0  # on one node

    def transfer(self, nbytes: float, source: int, dest: int) -> Transfer:
        """Return what a message of ``nbytes`` asks of the network."""
        return Costs.transfer(self, nbytes, self.originals[source], self.originals[dest])

    def slowness_of(self, rank: int) -> float:
        """Return how many times longer ``rank`` computes."""
        return self.slowness.get(rank, 1.0)

    def waits_for_receive(self, nbytes: float, source: int, dest: int) -> bool:
        """Say whether a message does not leave before its receive is posted."""
        return Costs.waits_for_receive(self, nbytes, self.originals[source], self.originals[dest])

    def library_s(self, op: Collective, itemsize: int, rank: int | None = None) -> float:
        """Return the time of a collective that the library does, once all ranks are there."""
        return Costs.library_s(self, op, itemsize, None if rank is None else self.originals[rank])

    def num_savers(self, _: Program) -> int:
        """Return how many ranks save on the node that has most of them."""
        return self.savers


def fold(program: Program, costs: Costs) -> tuple[Program, FoldedCosts]:
    """Return ``program`` with one rank for each that cannot differ from it, and their costs.

    Where none can be left out, all are there.
    """
    slow = costs.slow_ranks()
    for rank in slow:
        program = program.isolated(rank)
    mesh = program.mesh
    kept = {axis: list(range(mesh.size(axis))) for axis in Axis}
    if costs.fabric.num_nodes == 1 or costs.is_plain or costs.is_comm_free:
        for axis in _free_axes(program, costs):
            kept[axis] = [int(atom[0]) for atom in atoms_of(program.roles, mesh, axis)]
    smaller = Mesh(*(len(kept[axis]) for axis in Axis))
    originals = tuple(
        (dp * mesh.pp + pp) * mesh.tp + tp
        for dp in kept[Axis.DP] for pp in kept[Axis.PP] for tp in kept[Axis.TP]
    )  # fmt: skip
    roles = [_narrowed(role, kept) for role in program.roles]
    slowness = {
        place: costs.slowness_of(rank) for place, rank in enumerate(originals) if rank in slow
    }  # fmt: skip
    given = {each.name: getattr(costs, each.name) for each in fields(Costs) if each.init}
    folded = FoldedCosts(**(given | {"slowness": slowness}), originals=originals,
                         savers=costs.num_savers(program) if _saves(program) else 0)  # fmt: skip
    return replace(program, mesh=smaller, roles=tuple(roles)), folded


def _free_axes(program: Program, costs: Costs) -> Iterator[Axis]:
    """Yield the axes along which ranks do not differ but by their roles."""
    mesh, fabric = program.mesh, costs.fabric
    has_own_links = fabric.num_nodes == 1 or fabric.ranks_per_node == 1 or costs.is_comm_free
    has_own_nodes = mesh.pp * mesh.tp % fabric.ranks_per_node == 0
    if fabric.guests or program.workers or program.is_shared:
        return
    used = {axis for role in program.roles for op in role.ops for axis in _axes(op)}
    for axis, is_apart in ((Axis.DP, has_own_links or has_own_nodes), (Axis.TP, has_own_links)):
        if is_apart and axis not in used and mesh.size(axis) > 1:
            yield axis


def _axes(op: Op) -> Iterator[Axis]:
    """Yield the axes along which ``op`` tells ranks apart: by messages, or by chunks."""
    match op:
        case Repeat(_, body):
            for inner in body:
                yield from _axes(inner)
        case Send(_, part, peer) | Receive(_, part, peer):
            yield from _axes_of(part)
            yield from Axis if isinstance(peer, AnyRank | Sender | Rank) else (peer.axis,)
        case Accumulate(part, source, window):
            yield from (*_axes_of(part), *_axes_of(source))
            yield from () if window is None else Axis
        case Scale(part) | Save(part) | Compute(part=Part() as part):
            yield from _axes_of(part)
        case Collective(axis=axis, algorithm=algorithm) if algorithm is not Algorithm.LIBRARY:
            yield axis
        case _:
            pass


def _axes_of(part: Part) -> Iterator[Axis]:
    if part.chunks is not None:
        yield part.chunks.anchor.axis


def _narrowed(role: Role, kept: dict[Axis, list[int]]) -> Role:
    """Return ``role`` for those of its ranks that are kept, by their new coordinates."""
    for axis, coordinates in kept.items():
        inside = [place for place, each in enumerate(coordinates) if each in role.span(axis)]
        step = inside[1] - inside[0] if len(inside) > 1 else 1
        role = role.narrowed(axis, range(inside[0], inside[-1] + 1, step))
    return role


def _saves(program: Program) -> bool:
    return any(isinstance(op, Save) for role in program.roles for op in role.ops)
