"""The makespan: how long the trials take on another number of ranks, from their measured lengths.

Trials are handed out in order, each to the group that is free first: list scheduling. It is never
longer than (2 - 1/m) times the shortest schedule on m groups: R. L. Graham, "Bounds on
multiprocessing timing anomalies", SIAM J. Appl. Math. 17 (1969) 416-429.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPLICATES = 400  # of the bootstrap
CONFIDENCE = 0.9
_STREAM = 0x6D616B65


@dataclass(frozen=True, slots=True)
class Makespan:
    """A forecast: the makespan on ``num_groups`` groups, its interval, and the share of time in use.

    ``bound_s`` is what no schedule of these lengths can beat.
    """

    num_groups: int
    time_s: float
    low_s: float
    high_s: float
    bound_s: float
    efficiency: float


def list_schedule(lengths_s: NDArray[np.float64], num_groups: int) -> NDArray[np.float64]:
    """Return the makespan of lengths, (..., trials), handed out in order; of shape (...)."""
    num_groups = min(num_groups, max(lengths_s.shape[-1], 1))  # more have nothing to do
    free_s = np.zeros((*lengths_s.shape[:-1], num_groups))
    for trial in range(lengths_s.shape[-1]):
        first = free_s.argmin(axis=-1, keepdims=True)
        then_s = np.take_along_axis(free_s, first, -1) + lengths_s[..., trial, None]
        np.put_along_axis(free_s, first, then_s, -1)
    latest: NDArray[np.float64] = free_s.max(axis=-1)
    return latest


def lower_bound_s(lengths_s: NDArray[np.float64], num_groups: int) -> float:
    """Return the larger of the longest trial and the mean load: no schedule is shorter."""
    return float(max(lengths_s.max(), lengths_s.sum() / num_groups))


def forecast_makespan(
    lengths_s: Sequence[float], num_groups: int, num_trials: int | None = None, *,
    gap_s: float = 0.0, seed: int = 0,
) -> Makespan:  # fmt: skip
    """Return the makespan of the measured trials, or of ``num_trials`` such trials.

    ``gap_s`` passes on a group between two trials. The interval (90 %) is a bootstrap over the
    trials: as many are drawn from the measured ones, with replacement, and handed out in the order
    in which those were (B. Efron, "Bootstrap methods: another look at the jackknife", Ann. Stat. 7
    (1979) 1-26). It says how much the makespan hangs on which trials were drawn. It assumes that a
    trial takes as long as it did here, however many run beside it.
    """
    measured_s = np.asarray(lengths_s, np.float64)
    count = num_trials or len(measured_s)
    seeds = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
    drawn = np.random.Generator(np.random.PCG64(seeds)).integers(0, len(measured_s), (REPLICATES, count))  # fmt: skip
    if count == len(measured_s):
        drawn.sort(axis=1)  # else there is no order to keep
    many_s = measured_s[drawn]
    spans_s = list_schedule(many_s + gap_s, num_groups) - gap_s  # none follows the last
    if count == len(measured_s):
        own_s = measured_s
        time_s = float(list_schedule(own_s + gap_s, num_groups)) - gap_s
    else:
        middle = np.argsort(spans_s)[REPLICATES // 2]
        own_s, time_s = many_s[middle], float(spans_s[middle])
    tail = (1 - CONFIDENCE) / 2
    low_s, high_s = map(float, np.quantile(spans_s, (tail, 1 - tail)))
    return Makespan(
        num_groups, time_s, min(low_s, time_s), max(high_s, time_s), lower_bound_s(own_s, num_groups),
        float(own_s.sum() / (num_groups * time_s)),
    )  # fmt: skip


def seconds(time_s: float) -> str:
    """Return a time for people."""
    if time_s < 120:
        return f"{time_s:.3g} s"
    return f"{time_s / 60:.3g} min" if time_s < 7200 else f"{time_s / 3600:.3g} h"
