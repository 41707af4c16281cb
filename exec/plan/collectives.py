"""Expansion: a collective becomes the sends, receives and sums of its algorithm.

What is simulated is then what is executed. The algorithms and their names are those of Thakur et
al. (see :class:`exec.program.ops.Algorithm`); rings have a file of their own. For p ranks that are
no power of two, the doubling algorithms fold the last ``p - 2^k`` ranks onto the first ones
before, and hand them the result after.

Every algorithm leaves the same bits on all ranks of the group: either one rank computes a sum and
the others copy it, or two partners add the same two numbers, which commutes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, pairwise

from exec.plan.group import SCRATCH, Group
from exec.plan.rings import Ring, hierarchical, ring
from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
    Mark,
    Op,
    Repeat,
)  # fmt: skip
from exec.program.peers import Shift, Xor
from exec.program.program import Program, Role

_FIRST_TAG = 16


def expand(program: Program) -> Program:
    """Return ``program`` with every collective that names an algorithm turned into messages."""
    ids = {
        op.id: None
        for role in program.roles
        for op in role.ops
        if isinstance(op, Collective) and op.algorithm is not Algorithm.LIBRARY
    }
    tags = dict(zip(ids, count(_FIRST_TAG), strict=False))
    roles = [part for role in program.roles for part in _split(role, program)]
    expanded = (replace(role, ops=tuple(_expand_ops(role, program, tags))) for role in roles)
    return replace(program, roles=tuple(expanded))


def scratch_elements(program: Program) -> int:
    """Return how many elements the scratch buffer of the expanded ``program`` needs.

    That is for roles that do not list it among what they hold.
    """
    sizes = [0]
    for role in program.roles:
        if role.held(SCRATCH) is not None:
            continue
        for op in role.ops:
            for inner in op.body if isinstance(op, Repeat) else (op,):
                if isinstance(inner, Accumulate) and inner.source.buffer == SCRATCH:
                    sizes.append(inner.source.stop)
    return max(sizes)


def _split(role: Role, program: Program) -> list[Role]:
    """Return ``role`` cut along the axes on which its ranks play different parts of a collective."""
    parts = [role]
    for axis in Axis:
        algorithms = {
            op.algorithm
            for op in role.ops
            if isinstance(op, Collective)
            and op.axis is axis
            and op.kind is CollectiveKind.ALLREDUCE
        }
        for algorithm in sorted(algorithms & _CLASSES.keys()):
            size = program.mesh.size(axis)
            cuts = _CLASSES[algorithm](size)
            parts = [
                _narrowed(part, axis, span)
                for part in parts
                for cut in cuts
                if (span := _intersect(cut, part.span(axis)))
            ]
    return parts


def _narrowed(role: Role, axis: Axis, span: range) -> Role:
    """Return what ``role`` is for the ranks of ``span`` along ``axis``."""
    return replace(role.narrowed(axis, span), name=f"{role.name}.{axis}{span.start}")


def _intersect(cut: range, span: range) -> range:
    """Return the members of ``cut`` inside ``span``; one of the two has step 1 or both agree."""
    if span.step > 1 and cut.step == 1:
        cut, span = span, cut
    start = cut.start + -(-max(0, span.start - cut.start) // cut.step) * cut.step
    inside = range(start, min(cut.stop, span.stop), cut.step)
    return inside if span.step in (1, cut.step) and all(i in span for i in inside[:1]) else range(0)


def _expand_ops(role: Role, program: Program, tags: dict[str, int]) -> Iterator[Op]:
    for op in role.ops:
        if isinstance(op, Collective) and op.algorithm is not Algorithm.LIBRARY:
            size = program.mesh.size(op.axis)
            group = Group(op, size, tags[op.id])
            if op.kind is CollectiveKind.ALLGATHER:
                yield from Ring(group, size).gather(0)
            elif op.kind is CollectiveKind.ALLREDUCE:
                yield from _ALLREDUCES[op.algorithm](group, role.span(op.axis).start)
            else:
                raise ValueError(f"only allreduce and allgather expand, got {op.kind}")
            yield Mark(op.id)
        else:
            yield op


def _recursive_doubling(group: Group, rank: int) -> list[Op]:
    """log2 p steps, each of which adds the partner's whole buffer."""
    part, axis = group.op.part, group.op.axis

    def core(size: int) -> Iterator[Op]:
        for distance in _powers(size):
            peer = Xor(axis, distance)
            yield from group.add(f"d{distance}", part, peer, part, peer)

    return _folded(group, rank, core)


def _halving_doubling(group: Group, rank: int) -> list[Op]:
    """Halve what is exchanged log2 p times while adding, then double it while handing back."""
    axis = group.op.axis

    def core(size: int) -> Iterator[Op]:
        for distance in reversed(_powers(size)):
            peer = Xor(axis, distance)
            theirs = group.chunk(peer, size, distance)
            mine = group.chunk(Shift(axis, 0), size, distance)
            yield from group.add(f"halve{distance}", theirs, peer, mine, peer)
        for distance in _powers(size):
            peer = Xor(axis, distance)
            theirs = group.chunk(peer, size, distance)
            mine = group.chunk(Shift(axis, 0), size, distance)
            yield from group.exchange(f"double{distance}", mine, peer, theirs, peer)

    return _folded(group, rank, core)


def _binomial_tree(group: Group, rank: int) -> list[Op]:
    """Reduce to the first rank along a binomial tree, then broadcast along the same tree."""
    axis, p = group.op.axis, group.size
    lowest = rank & -rank or 1 << p.bit_length()
    children = [d for d in _powers(2 * p) if d < lowest and rank + d < p]
    ops: list[Op] = []
    for d in children:
        ops += group.receive(f"reduce{d}", Shift(axis, d), is_added=True)
    if rank:
        ops += group.send("up", Shift(axis, -lowest))
        ops += group.receive("down", Shift(axis, -lowest), is_added=False)
    for d in reversed(children):
        ops += group.send(f"broadcast{d}", Shift(axis, d))
    return ops


def _folded(group: Group, rank: int, core: Callable[[int], Iterator[Op]]) -> list[Op]:
    size = _largest_power(group.size)
    extra, axis = group.size - size, group.op.axis
    if rank >= size:
        return [
            *group.send("fold", Shift(axis, -size)),
            *group.receive("unfold", Shift(axis, -size), is_added=False),
        ]
    ops = list(core(size))
    if rank < extra:
        fold = group.receive("fold", Shift(axis, size), is_added=True)
        ops = [*fold, *ops, *group.send("unfold", Shift(axis, size))]
    return ops


def _folded_classes(p: int) -> list[range]:
    size = _largest_power(p)
    return [range(p - size), range(p - size, size), range(size, p)]


def _tree_classes(p: int) -> list[range]:
    """Return ranks that have the same children: equal lowest bit, all, or the last few less."""
    classes = [range(1)]
    for lowest in _powers(2 * p):
        borders = sorted({max(lowest, p - d) for d in _powers(lowest)} | {lowest, p})
        members = range(lowest, p, 2 * lowest)
        for low, high in pairwise(borders):
            start = lowest + -(-max(0, low - lowest) // (2 * lowest)) * 2 * lowest
            classes.append(range(start, min(high, members.stop), 2 * lowest))
    return classes


def _largest_power(p: int) -> int:
    return 1 << (p.bit_length() - 1)


def _powers(limit: int) -> list[int]:
    """Return the powers of two below ``limit``."""
    return [1 << i for i in range((limit - 1).bit_length())]


_ALLREDUCES: dict[Algorithm, Callable[[Group, int], list[Op]]] = {
    Algorithm.RING: ring,
    Algorithm.RECURSIVE_DOUBLING: _recursive_doubling,
    Algorithm.HALVING_DOUBLING: _halving_doubling,
    Algorithm.BINOMIAL_TREE: _binomial_tree,
    Algorithm.HIERARCHICAL: hierarchical,
}
EXPANDED = tuple(_ALLREDUCES)
"""The algorithms that become messages."""
_CLASSES: dict[Algorithm, Callable[[int], list[range]]] = {
    Algorithm.RECURSIVE_DOUBLING: _folded_classes,
    Algorithm.HALVING_DOUBLING: _folded_classes,
    Algorithm.BINOMIAL_TREE: _tree_classes,
}
