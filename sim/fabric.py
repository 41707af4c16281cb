"""The fabric: which ranks share a node, and through which tier two ranks meet."""

from dataclasses import dataclass
from enum import Enum, auto

from calibration.machine import Tier
from exec.program.mesh import Axis, Mesh


class Pattern(Enum):
    """Who sends in a step: all to the next one round, both of each pair, or one of each pair."""

    SHIFT = auto()
    PAIRS = auto()
    TREE = auto()


@dataclass(frozen=True, slots=True)
class Fabric:
    """Ranks in order over nodes, ``ranks_per_node`` on each; a node has one network link.

    The first ``guests`` ranks have no nodes of their own: they share those of the others, evenly.
    """

    mesh: Mesh
    ranks_per_node: int
    guests: int = 0

    @property
    def num_nodes(self) -> int:
        """How many nodes the mesh fills."""
        return -(-(self.mesh.world_size - self.guests) // self.ranks_per_node)

    @property
    def most_on_a_node(self) -> int:
        """How many ranks the fullest node has."""
        own = min(self.ranks_per_node, self.mesh.world_size - self.guests)
        return own + -(-self.guests // self.num_nodes)

    def node(self, rank: int) -> int:
        """Return the node of ``rank``."""
        if rank < self.guests:
            return rank * self.num_nodes // self.guests
        return (rank - self.guests) // self.ranks_per_node

    def tier(self, rank: int, other: int) -> Tier:
        """Return where two ranks meet."""
        return Tier.NODE if self.node(rank) == self.node(other) else Tier.NETWORK

    def group_tier(self, axis: Axis) -> Tier:
        """Return the tier that the groups along ``axis`` span."""
        block = self.mesh.size(axis) * self.mesh.stride(axis)
        fits = self.ranks_per_node % block == 0 or self.num_nodes == 1
        return Tier.NODE if fits else Tier.NETWORK

    def hop(self, axis: Axis, distance: int, pattern: Pattern) -> tuple[Tier, int]:
        """Return the tier of the slowest of all hops by ``distance`` along ``axis`` at once.

        With it comes how many ranks of a node then share its network link.
        """
        if self.group_tier(axis) is Tier.NODE:
            return Tier.NODE, 1
        stride = distance * self.mesh.stride(axis)
        if pattern is not Pattern.SHIFT and self.ranks_per_node % (2 * stride) == 0:
            return Tier.NODE, 1
        if pattern is Pattern.TREE:
            return Tier.NETWORK, min(self.ranks_per_node, self.mesh.stride(axis))
        return Tier.NETWORK, min(self.ranks_per_node, stride)

    def inner_hop(self, axis: Axis, block: int) -> tuple[Tier, int]:
        """Return what :meth:`hop` does, of hops to the next one round blocks of ``block``."""
        if self.ranks_per_node % (block * self.mesh.stride(axis)) == 0:
            return Tier.NODE, 1
        return self.hop(axis, 1, Pattern.SHIFT)

    def group_nodes(self, axis: Axis) -> tuple[int, int, int]:
        """Return, of a group along ``axis``: ranks on a node, nodes, and groups on a node."""
        if self.group_tier(axis) is Tier.NODE:
            return self.mesh.size(axis), 1, 1
        stride, size = self.mesh.stride(axis), self.mesh.size(axis)
        together = max(1, min(size, self.ranks_per_node // stride))
        return together, -(-size // together), max(1, min(self.ranks_per_node // together, stride))
