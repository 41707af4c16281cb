"""A program: a few roles, each one list of ops, played by any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Acquire,
    Collective,
    Compute,
    Grant,
    Mark,
    Op,
    Receive,
    Release,
    Repeat,
    Save,
    Scale,
    Send,
    Wait,
)
from exec.program.peers import Part, resolve_part, resolve_peer


@dataclass(frozen=True, slots=True)
class Role:
    """What every rank with coordinates in ``dp``, ``pp`` and ``tp`` does.

    Microbatch ``i`` uses the activation buffers of slot ``i % slots``. ``samples`` is by how many
    samples gradients are divided. ``holds`` lists the flat buffers (parameters, gradients,
    velocities, scratch) by their range; ``nbytes`` is all that one rank holds, activations too.

    The ops are done ``times`` times; or, where ``until`` names a receive, once for every ticket:
    the first is the rank's place among the workers, the next come at the end of that message.
    """

    name: str
    dp: range
    pp: range
    tp: range
    ops: tuple[Op, ...]
    slots: int = 1
    samples: int = 1
    holds: tuple[Part, ...] = ()
    nbytes: int = 0
    times: int = 1
    until: str = ""

    def span(self, axis: Axis) -> range:
        """Return the coordinates along ``axis`` that play this role."""
        return self.dp if axis is Axis.DP else self.pp if axis is Axis.PP else self.tp

    @property
    def num_ranks(self) -> int:
        """How many ranks play this role."""
        return len(self.dp) * len(self.pp) * len(self.tp)

    def narrowed(self, axis: Axis, span: range) -> "Role":
        """Return the role for the coordinates ``span`` along ``axis`` only."""
        spans = {each: span if each is axis else self.span(each) for each in Axis}
        return replace(self, dp=spans[Axis.DP], pp=spans[Axis.PP], tp=spans[Axis.TP])

    def held(self, buffer: str) -> Part | None:
        """Return the range of ``buffer`` that a rank of this role holds, or None."""
        return next((part for part in self.holds if part.buffer == buffer), None)


@dataclass(frozen=True, slots=True)
class Program:
    """What every rank of ``mesh`` does, in a step or, with ``tickets``, in so many small ones.

    Buffers hold elements of ``itemsize`` bytes. The dp coordinates ``workers`` share the samples;
    none means all. With ``is_shared`` all ranks of a stage and shard use one buffer of parameters
    in shared memory; with ``sharers`` every so many of them in a row use one, those of a node.
    """

    mesh: Mesh
    itemsize: int
    roles: tuple[Role, ...]
    workers: range = range(0)
    tickets: int = 0
    is_shared: bool = False
    sharers: int = 0

    @property
    def trainers(self) -> range:
        """The dp coordinates that share the samples."""
        return self.workers or range(self.mesh.dp)

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

    def owned(self, rank: int) -> Part | None:
        """Return the parameters of which ``rank`` has the copy that counts.

        Of the ranks that hold a parameter that is the one with the lowest dp coordinate.
        """
        dp, pp, tp = self.mesh.coordinates(rank)
        mine = self.role_of(rank).held("param")
        for lower in range(dp):
            theirs = self.role_of((lower * self.mesh.pp + pp) * self.mesh.tp + tp).held("param")
            if mine is None or (theirs and theirs.start <= mine.start < theirs.stop):
                return None
        return mine

    def isolated(self, rank: int) -> "Program":
        """Return the program with ``rank`` in a role of its own."""
        role = self.role_of(rank)
        roles = list(self.roles)
        at = roles.index(role)
        pieces = [role]
        for axis, own in zip(Axis, self.mesh.coordinates(rank), strict=True):
            pieces = [cut for piece in pieces for cut in _cut(piece, axis, own)]
        roles[at : at + 1] = pieces
        return replace(self, roles=tuple(roles))

    def with_tickets(self, most: int) -> "Program":
        """Return the program with at most so many tickets."""
        if self.tickets <= most:
            return self
        roles = [replace(r, times=most) if r.times == self.tickets else r for r in self.roles]
        return replace(self, tickets=most, roles=tuple(roles))

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
            case Accumulate(into, source, peer):
                window = None if peer is None else resolve_peer(peer, rank, self.mesh, iteration)
                return Accumulate(part(into), part(source), window)
            case Scale(whole) | Save(whole):
                return replace(op, part=part(whole))
            case Compute(part=Part() as whole):
                return replace(op, part=part(whole))
            case Compute() | Collective() | Mark() | Wait() | Grant() | Acquire() | Release():
                return op
            case Repeat():
                raise ValueError("a repeat must not hold another repeat")


def _cut(role: Role, axis: Axis, own: int) -> list[Role]:
    """Return ``role`` for the coordinates before ``own``, for ``own`` and for those after it."""
    span = role.span(axis)
    if own not in span:
        return [role]
    at = span.index(own)
    parts = [part for part in (span[:at], span[at : at + 1], span[at + 1 :]) if part]
    return [role.narrowed(axis, part) for part in parts]
