"""A program: a few roles, each one list of ops, played by any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from exec.program.mesh import Axis, Mesh
from exec.program.ops import Accumulate, Collective, Compute, Mark, Op, Receive, Repeat, Send, Wait
from exec.program.peers import Part, resolve_part, resolve_peer


@dataclass(frozen=True, slots=True)
class Role:
    """What every rank with coordinates in ``dp``, ``pp`` and ``tp`` does in one step.

    Microbatch ``i`` uses the activation buffers of slot ``i % slots``. ``nbytes`` is what one rank
    holds: parameters, gradients, velocities and activations.
    """

    name: str
    dp: range
    pp: range
    tp: range
    ops: tuple[Op, ...]
    slots: int = 1
    nbytes: int = 0

    def span(self, axis: Axis) -> range:
        """Return the coordinates along ``axis`` that play this role."""
        return self.dp if axis is Axis.DP else self.pp if axis is Axis.PP else self.tp

    @property
    def num_ranks(self) -> int:
        """How many ranks play this role."""
        return len(self.dp) * len(self.pp) * len(self.tp)


@dataclass(frozen=True, slots=True)
class Program:
    """One training step of every rank of ``mesh``; buffers hold elements of ``itemsize`` bytes."""

    mesh: Mesh
    itemsize: int
    roles: tuple[Role, ...]

    def role_of(self, rank: int) -> Role:
        """Return the role that ``rank`` plays."""
        dp, pp, tp = self.mesh.coordinates(rank)
        for role in self.roles:
            if dp in role.dp and pp in role.pp and tp in role.tp:
                return role
        raise ValueError(f"rank must play one of the {len(self.roles)} roles, got {rank}")

    def ranks_of(self, role: Role) -> Iterator[int]:
        """Yield the ranks that play ``role``, in order."""
        for dp in role.dp:
            for pp in role.pp:
                for tp in role.tp:
                    yield (dp * self.mesh.pp + pp) * self.mesh.tp + tp

    def ops(self, rank: int) -> Iterator[Op]:
        """Yield the concrete ops of ``rank``: loops unrolled, peers and chunks resolved."""
        for op in self.role_of(rank).ops:
            if isinstance(op, Repeat):
                for iteration in range(op.count):
                    for inner in op.body:
                        yield self._resolve(inner, rank, iteration)
            else:
                yield self._resolve(op, rank, 0)

    def _resolve(self, op: Op, rank: int, iteration: int) -> Op:
        def part(value: Part) -> Part:
            return resolve_part(value, rank, self.mesh, iteration)

        match op:
            case Send() | Receive():
                peer = resolve_peer(op.peer, rank, self.mesh, iteration)
                return replace(op, part=part(op.part), peer=peer)
            case Accumulate(into, source):
                return Accumulate(part(into), part(source))
            case Compute() | Collective() | Mark() | Wait():
                return op
            case Repeat():
                raise ValueError("a repeat must not hold another repeat")
