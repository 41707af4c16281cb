"""Rings: all-reduce by handing chunks round, one ring over all ranks or rings of two levels.

The ring is P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", J. Parallel Distrib. Comput. 69 (2009) 117-124. The hierarchical algorithm is the
2D-torus all-reduce of H. Mikami et al., "Massively Distributed SGD: ImageNet/ResNet-50 Training in
a Flash", arXiv:1811.05233 (2018), whose rows are the nodes.
"""

from dataclasses import dataclass

from exec.plan.group import Group
from exec.program.ops import Op, Repeat, Scope
from exec.program.peers import Part, Shift


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring of ``size`` ranks, ``distance`` apart and inside blocks of ``block`` (0: the axis).

    Of the group's chunks, numbered by nodes of ``node_size``, a message has ``width``.
    """

    group: Group
    size: int
    distance: int = 1
    block: int = 0
    width: int = 1
    node_size: int = 1

    def shift(self, num_places: int, step: int = 0) -> Shift:
        """Return the rank ``num_places`` further, and ``step`` more with each iteration."""
        distance = self.distance
        return Shift(self.group.op.axis, num_places * distance, step * distance, self.block)

    def chunk(self, num_places: int) -> Part:
        """Return the chunk of the rank ``num_places`` further; each iteration goes one back."""
        anchor = self.shift(num_places, -1)
        return self.group.chunk(anchor, self.group.size, self.width, self.node_size)

    def reduce(self, first: int, step: str = "reduce") -> list[Op]:
        """Add chunks round the ring; each rank starts with the one ``first`` places further."""
        out, into = self.chunk(first), self.chunk(first - 1)
        body = self.group.add(step, out, self.shift(1), into, self.shift(-1))
        return [Repeat(self.size - 1, tuple(body))]

    def gather(self, first: int, step: str = "gather") -> list[Op]:
        """Hand chunks round the ring; each rank starts with the one ``first`` places further."""
        out, into = self.chunk(first), self.chunk(first - 1)
        body = self.group.exchange(step, out, self.shift(1), into, self.shift(-1))
        return [Repeat(self.size - 1, tuple(body))]


def ring(group: Group, _: int) -> list[Op]:
    """p - 1 steps add chunks round the ring, p - 1 more hand the sums round."""
    whole = Ring(group, group.size)
    return [*whole.reduce(0), *whole.gather(1)]


def hierarchical(group: Group, rank: int) -> list[Op]:
    """Reduce-scatter in each node, all-reduce the shares between nodes, all-gather in each node.

    Of g ranks on a node each handles one g-th of the buffer, in a ring with its like on the other
    nodes. As much leaves a node as if one of its ranks spoke for all; but that rank would take the
    whole buffer in every step of a tree in the node, and do all sums while the others wait. Of scope
    *between* only the middle part is left: a window has done the first, and spares the last.
    """
    p, g = group.size, group.op.node_size
    if group.op.scope is Scope.BETWEEN:
        between = Ring(group, p // g, distance=g, node_size=g)
        return [*between.reduce(0), *between.gather(1)]
    if g in (1, p):
        return ring(group, rank)
    inside = Ring(group, g, block=g, width=p // g, node_size=g)
    between = Ring(group, p // g, distance=g, node_size=g)
    return [
        *inside.reduce(-1, "node_reduce"),
        *between.reduce(0),
        *between.gather(1),
        *inside.gather(0, "node_gather"),
    ]
