"""Max-min fair rates of flows that stand for several: progressive filling, each link by its weights.

A link that ``weight`` flows cross which one stands for is crossed by that one as often. Where every
flow of a lump crosses as many of each lump, and every link of a lump is crossed by as many of each,
the fair rates are equal within lumps, and those of one of each are found so.

Source: D. Bertsekas and R. Gallager, "Data Networks", 2nd ed., Prentice-Hall 1992, section 6.5.2
(max-min); C. Godsil and G. Royle, "Algebraic Graph Theory", Springer 2001, section 9.3 (equitable
partitions).
"""

import math
from collections.abc import Sequence

Route = Sequence[tuple[int, int]]
"""The links of a flow, by their places, and how many cross each of those that it stands for."""


def lumped_max_min(
    routes: Sequence[Route], capacities: Sequence[float], limits: Sequence[float]
) -> list[float]:
    """Return the max-min fair rate of each flow; ``limits`` are the flows' own highest rates.

    Two flows that stand for one and for three others share a link of 1 with a flow of their own:

    >>> lumped_max_min([[(0, 1)], [(0, 3)]], [1.0], [float("inf")] * 2)
    [0.25, 0.25]
    """
    rates = [0.0] * len(routes)
    room = list(capacities)
    num_open = [0] * len(capacities)
    on_link: list[list[int]] = [[] for _ in capacities]
    for flow, route in enumerate(routes):
        for link, weight in route:
            num_open[link] += weight
            on_link[link].append(flow)
    still = set(range(len(routes)))
    used = [link for link, capacity in enumerate(capacities) if capacity < math.inf]
    level = 0.0
    while still:
        used = [link for link in used if num_open[link]]
        share, full = min(((room[link] / num_open[link], link) for link in used), default=(math.inf, -1))  # fmt: skip
        share = max(level, share)  # the level only rises; roundings must not let it sink
        least = min(limits[flow] for flow in still)
        if least <= share:
            level, fixed = least, [flow for flow in still if limits[flow] == least]
        else:
            level, fixed = share, [flow for flow in on_link[full] if flow in still]
        for flow in fixed:
            rates[flow] = level
            still.remove(flow)
            for link, weight in routes[flow]:
                room[link] -= weight * level
                num_open[link] -= weight
    return rates
