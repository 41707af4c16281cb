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
    lengths_s: Sequence[float], num_groups: int, num_trials: int | None = None, seed: int = 0
) -> Makespan:
    """Return the makespan of the measured trials, or of ``num_trials`` such trials.

    The interval (90 %) is a bootstrap over the trials: as many are drawn from the measured ones,
    with replacement, and handed out in the order in which those were (B. Efron, "Bootstrap methods:
    another look at the jackknife", Ann. Stat. 7 (1979) 1-26). It says how much the makespan hangs
    on which trials were drawn. It assumes that a trial takes as long as it did here, however many
    run beside it.
    """
    measured = np.asarray(lengths_s, np.float64)
    count = num_trials or len(measured)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_STREAM,))))  # fmt: skip
    drawn = generator.integers(0, len(measured), (REPLICATES, count))
    if count == len(measured):
        lengths = measured
        drawn.sort(axis=1)
    else:  # there is no order to keep
        lengths = measured[np.arange(count) % len(measured)]
    many_s = list_schedule(measured[drawn], num_groups)
    tail = (1 - CONFIDENCE) / 2
    low_s, high_s = map(float, np.quantile(many_s, (tail, 1 - tail)))
    time_s = float(list_schedule(lengths, num_groups)) if count == len(measured) else float(np.median(many_s))  # fmt: skip
    return Makespan(
        num_groups, time_s, min(low_s, time_s), max(high_s, time_s), lower_bound_s(lengths, num_groups),
        float(lengths.sum() / (num_groups * time_s)),
    )  # fmt: skip
