"""Steps: what all ranks send at once in one step of a collective, and the links where that meets.

k equal flows that begin together on a link of capacity C have C / k each at least, max-min fairly,
and those on the link where C / k is least have no more. So the slowest message of a step takes k / C
of that link, and no message of a group takes longer than that of the group's own worst link.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from calibration.machine import Tier
from exec.program.mesh import Axis
from sim.fabric import Fabric, Pattern
from sim.topology import Topology


@dataclass(frozen=True, slots=True)
class Step:
    """The tier of a step's slowest message, and how many equal ones share its narrowest link.

    A link of half the bandwidth counts as shared by two. ``more_latency_s`` is what a long way adds.
    """

    tier: Tier
    sharers: float
    more_latency_s: float = 0.0


def steps(
    fabric: Fabric, topology: Topology, axis: Axis, distance: int, pattern: Pattern, block: int
) -> dict[int, Step]:
    """Return the step of each group along ``axis``, by its first rank, if all take it at once."""
    loads: Counter[str] = Counter()
    links: dict[int, set[str]] = defaultdict(set)
    more_s: dict[int, float] = defaultdict(float)
    groups: set[int] = set()
    for group, rank, dest in _messages(fabric, axis, distance, pattern, block):
        groups.add(group)
        source_node, dest_node = fabric.node(rank), fabric.node(dest)
        if source_node != dest_node:
            hops = topology.route(source_node, dest_node)
            loads.update(hops.links)
            links[group].update(hops.links)
            more_s[group] = max(more_s[group], hops.more_latency_s)
    needs = {
        link: count * topology.bytes_per_s / topology.capacity(link) for link, count in loads.items()
    }  # fmt: skip
    return {
        group: Step(Tier.NETWORK, max(needs[link] for link in links[group]), more_s[group])
        if links[group]
        else Step(Tier.NODE, 1)
        for group in groups
    }


def _messages(
    fabric: Fabric, axis: Axis, distance: int, pattern: Pattern, block: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the group, the source and the destination of each message."""
    size, stride = fabric.mesh.size(axis), fabric.mesh.stride(axis)
    around = block or size
    for rank in range(fabric.mesh.world_size):
        own = fabric.mesh.coordinate(rank, axis)
        first = rank - own * stride
        match pattern:
            case Pattern.SHIFT:
                other = own // around * around + (own % around + distance) % around
            case Pattern.PAIRS:
                other = own ^ distance
            case Pattern.TREE:
                other = own - distance if own % (2 * distance) == distance else own
        if other < size:
            yield first, rank, first + other * stride
