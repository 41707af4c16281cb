"""Staleness: how many updates came between the weights a gradient was made of and its own.

It follows from the order in which a server took its messages: a worker's gradient is made of the
weights that it got with its last answer.

Source: Q. Ho et al., "More effective distributed ML via a stale synchronous parallel parameter
server", NIPS 2013.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any


def staleness(arrivals: Sequence[int]) -> list[int]:
    """Return the staleness of each gradient, by the order of their senders.

    >>> staleness([1, 2, 1, 1])
    [0, 1, 1, 0]
    """
    answered: dict[int, int] = {}
    found = []
    for update, sender in enumerate(arrivals):
        found.append(update - answered.get(sender, 0))
        answered[sender] = update + 1
    return found


def staleness_record(arrivals: Sequence[int]) -> dict[str, Any]:
    """Return the distribution of the staleness, and how many gradients each rank sent."""
    found = staleness(arrivals)
    ordered = sorted(found)
    return {
        "mean": statistics.fmean(found),
        "median": ordered[len(ordered) // 2],
        "p90": ordered[len(ordered) * 9 // 10],
        "max": ordered[-1],
        "counts": {str(each): count for each, count in sorted(Counter(found).items())},
        "gradients_of_rank": {str(rank): n for rank, n in sorted(Counter(arrivals).items())},
    }
