"""Topologies: which links a message between two nodes takes, and what each of them carries.

Routes are fixed: up and down in a star and a tree, dimension after dimension the shorter way round
in a torus (dimension-order routing on k-ary n-cubes: W. J. Dally and C. L. Seitz, "Deadlock-free
message routing in multiprocessor interconnection networks", IEEE Trans. Comput. C-36 (1987)
547-553). So two messages meet where their routes have a link in common, and nowhere else.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from calibration.fabric import FabricKind, FabricModel
from exec.errors import UsageError


@dataclass(frozen=True, slots=True)
class Hops:
    """The links from one node to another, and what they add to the latency of a message."""

    links: tuple[str, ...]
    more_latency_s: float


@dataclass(slots=True)
class Topology:
    """A fabric of ``num_nodes``, whose links carry ``bytes_per_s`` unless ``model`` says otherwise.

    Raises:
        UsageError: the fabric cannot have so many nodes.
    """

    model: FabricModel
    num_nodes: int
    bytes_per_s: float

    def __post_init__(self) -> None:
        if self.num_nodes > self.model.most_nodes:
            sides = "x".join(map(str, self.model.dims))
            raise UsageError(
                f"fabric must have room for {self.num_nodes} nodes, got a torus of {sides}; "
                f"use larger dims or fewer nodes"
            )

    @property
    def is_plain(self) -> bool:
        """Whether it is a star of equal links."""
        return self.model.kind is FabricKind.STAR and not self.model.links

    @property
    def nodes_per_rack(self) -> int:
        """How many nodes a full rack of a tree has."""
        if self.model.nodes_per_rack is not None:
            return self.model.nodes_per_rack
        assert self.model.racks is not None
        return -(-self.num_nodes // self.model.racks)

    def route(self, source: int, dest: int) -> Hops:
        """Return the hops from node ``source`` to another, ``dest``."""
        match self.model.kind:
            case FabricKind.STAR:
                return Hops((f"node{source}.up", f"node{dest}.down"), 0.0)
            case FabricKind.TREE:
                up, down = source // self.nodes_per_rack, dest // self.nodes_per_rack
                between = () if up == down else (f"rack{up}.up", f"rack{down}.down")
                links = (f"node{source}.up", *between, f"node{dest}.down")
                return Hops(links, self.model.hop_latency_s * len(between))
            case FabricKind.TORUS:
                turns = list(self._turns(source, dest))
                return Hops(tuple(turns), self.model.hop_latency_s * (len(turns) - 1))

    def _turns(self, source: int, dest: int) -> Iterator[str]:
        """Yield the links of a torus from ``source`` to ``dest``, dimension after dimension."""
        here, stride = source, math.prod(self.model.dims)
        for size in self.model.dims:
            stride //= size
            own, other = here // stride % size, dest // stride % size
            forward = (other - own) % size
            is_up = forward <= size - forward
            for _ in range(min(forward, size - forward)):
                own = (here // stride + (1 if is_up else -1)) % size
                there = here + (own - here // stride % size) * stride
                yield f"node{here}-node{there}"
                here = there

    def capacity(self, link: str) -> float:
        """Return what ``link`` carries, in bytes/s."""
        nominal = self.bytes_per_s
        if link.startswith("rack"):
            if self.model.uplink_bytes_per_s is not None:
                nominal = self.model.uplink_bytes_per_s
            else:
                assert self.model.oversubscription is not None
                nominal *= self.nodes_per_rack / self.model.oversubscription
        ends = link.split("-")
        names = {link, *ends, "-".join(reversed(ends)), link.split(".", maxsplit=1)[0]}
        told = [self.model.links[name].of(nominal) for name in names if name in self.model.links]
        return min(told, default=nominal)

    def unlike_nodes(self) -> set[int]:
        """Return the nodes that have links of their own bandwidth."""
        names = (end for link in self.model.links for end in link.split(".")[0].split("-"))
        return {int(name.removeprefix("node")) for name in names if name.startswith("node")}
