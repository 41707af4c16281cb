"""Replicas: a step simulated again and again, its noise or its Machine's numbers drawn from a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from exec.errors import UsageError
from sim.costs import Costs
from sim.intervals import NOISE_SIGMA, Uncertain, drawn
from sim.result import StepTimes

MOST_REPLICAS = 100_000


@dataclass(frozen=True, slots=True)
class Draws:
    """How often a step is drawn, and the seed that makes it the same again."""

    replicas: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MOST_REPLICAS:
            raise UsageError(f"replicas must be 1 to {MOST_REPLICAS}, got {self.replicas}")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, got {self.seed}")


def drawn_interval_s(
    uncertain: Uncertain, costs: Costs, draws: Draws, simulated: StepTimes, rest_s: tuple[float, float, float],
    read: Callable[[Costs], StepTimes],
) -> tuple[float, float]:  # fmt: skip
    """Return the shares of the step's time that it takes at its 5 % and 95 % quantiles.

    ``rest_s`` are the parts that ``simulated`` has not: the wait, the checkpoint and the overhead.
    ``read`` simulates with the costs that are drawn.
    """
    wait_s, checkpoint_s, overhead_s = rest_s
    generator = np.random.Generator(np.random.PCG64([draws.seed, 1]))
    storage = costs.machine.storage
    sigmas = np.array([NOISE_SIGMA, storage.rel_sigma if storage else 0.0])
    found: list[float] = []
    for each in drawn(uncertain, costs, draws.replicas, draws.seed):
        times = read(each)
        waits, saves = np.exp(sigmas * generator.standard_normal(2))
        waits *= times.compute_s / simulated.compute_s
        found.append(times.step_time_s + wait_s * waits + checkpoint_s * saves + overhead_s)
    total_s = simulated.step_time_s + sum(rest_s)
    low, high = quantiles(found)
    return low / total_s, high / total_s


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the 5 % and the 95 % quantile."""
    low, high = np.quantile(values, (0.05, 0.95))
    return float(low), float(high)
