"""The floor of message by message: a ring's steps as NumPy does them, and nothing else.

In a step every rank waits for its own message and for its neighbour's: an addition and a maximum over
all ranks, and a number carried round the end. No program is read, no cost looked up and no link
checked, so whatever goes through a ring step by step in NumPy takes longer.
"""

import numpy as np

_BLOCK = (
    1 << 13
)  # times that are done at once: four arrays of so many stay in a core's second cache


def ring(
    ranks: int, nbytes: int, alpha_s: float, bytes_per_s: float, num_replicas: int = 1
) -> float:
    """Return the seconds simulated, of one ring all-reduce in each of the replicas."""
    at_once = max(1, min(num_replicas, _BLOCK // ranks))
    step_s = alpha_s + nbytes / ranks / bytes_per_s
    return max(_block(ranks, at_once, step_s) for _ in range(0, num_replicas, at_once))


def _block(ranks: int, replicas: int, step_s: float) -> float:
    shape = (ranks, replicas) if replicas > 1 else (ranks,)
    times_s, took_s = np.zeros(shape), np.full(shape, step_s)
    ends_s = np.empty((ranks + 1, *shape[1:]))
    own, previous, last, wrapped = ends_s[1:], ends_s[:-1], ends_s[-1:], ends_s[:1]
    for _ in range(2 * (ranks - 1)):
        np.add(times_s, took_s, out=own)
        wrapped[:] = last
        np.maximum(own, previous, out=times_s)
    return float(times_s.max())
