"""Max-min fair rates by progressive filling, which raises all rates together.

Source: D. Bertsekas and R. Gallager, "Data Networks", 2nd ed., Prentice-Hall 1992, section 6.5.2.
"""

import math
from collections.abc import Sequence


def max_min(
    routes: Sequence[Sequence[int]], capacities: Sequence[float], limits: Sequence[float]
) -> list[float]:
    """Return the max-min fair rate of each flow, by progressive filling.

    ``routes`` are the links of each flow, by their places in ``capacities``; ``limits`` are the
    flows' own highest rates.

    >>> max_min([[0], [0, 1], [1]], [1.0, 3.0], [float("inf")] * 3)
    [0.5, 0.5, 2.5]
    """
    rates = [0.0] * len(routes)
    on_link: list[list[int]] = [[] for _ in capacities]
    for flow, route in enumerate(routes):
        for link in route:
            on_link[link].append(flow)
    room = list(capacities)
    num_open = [len(flows) for flows in on_link]
    by_limit = sorted(range(len(routes)), key=limits.__getitem__, reverse=True)
    is_open = [True] * len(routes)
    used = [link for link, capacity in enumerate(capacities) if capacity < math.inf]
    level = 0.0
    while True:
        while by_limit and not is_open[by_limit[-1]]:
            by_limit.pop()
        if not by_limit:
            return rates
        used = [link for link in used if num_open[link]]
        full, share = -1, math.inf
        for link in used:
            if (equal := room[link] / num_open[link]) < share:
                full, share = link, equal
        share = max(level, share)  # the level only rises; roundings must not let it sink
        fixed = []
        while by_limit and limits[by_limit[-1]] <= share:
            fixed.append(by_limit.pop())
        if fixed:
            fixed = [flow for flow in fixed if is_open[flow]]
            level = limits[fixed[-1]]
        else:
            level, fixed = share, [flow for flow in on_link[full] if is_open[flow]]
        for flow in fixed:
            rates[flow] = rate = min(level, limits[flow])
            is_open[flow] = False
            for link in routes[flow]:
                room[link] -= rate
                num_open[link] -= 1
