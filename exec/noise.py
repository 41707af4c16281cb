"""Noise: by how much a rank computes longer or shorter in a step, a factor of mean 1.

The trainer draws it, calibration measures it and forecasts wait for it, so that all three mean the
same by ``lognormal:0.1``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from exec.errors import UsageError

Array = NDArray[np.float64]

LAST_QUANTILE = 0.95
"""Beyond which what was measured goes on as an exponential tail."""
NUM_QUANTILES = 20
LEAST_STEPS = 60
"""Of fewer steps, less than three lie beyond the last quantile."""
_STREAM = 1 << 33  # apart from the streams of weights and samples


class Distribution(StrEnum):
    """How the noise of a step is distributed."""

    LOGNORMAL = "lognormal"
    EXPONENTIAL = "exponential"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much a rank computes longer or shorter in a step: a factor of mean 1.

    ``sigma`` is that of the logarithm (lognormal), or the mean and standard deviation of what an
    exponential delay adds to ``1 - sigma``.

    What was measured has ``quantiles``, at equal steps of probability from 0 to ``LAST_QUANTILE``.
    Between two of them, and beyond the last, the delay is exponential: there by ``tail`` in the
    mean, as far above a high threshold it is for many distributions. ``sigma`` is the standard
    deviation then.

    Source: J. Pickands III, "Statistical inference using extreme order statistics", Ann. Statist. 3
    (1975) 119-131, for what lies beyond a threshold.
    """

    distribution: Distribution
    sigma: float
    quantiles: tuple[float, ...] = ()
    tail: float = 0.0

    def __str__(self) -> str:
        return f"{self.distribution}:{self.sigma:g}"

    def factor(self, seed: int, rank: int, turn: int) -> float:
        """Return the factor of ``rank`` in its ``turn``, the same in every run with ``seed``."""
        seeds = np.random.SeedSequence([seed, _STREAM, rank, turn])
        generator = np.random.Generator(np.random.PCG64(seeds))
        match self.distribution:
            case Distribution.LOGNORMAL:
                return math.exp(self.sigma * generator.standard_normal() - self.sigma**2 / 2)
            case Distribution.EXPONENTIAL:
                return 1.0 - self.sigma + self.sigma * generator.standard_exponential()
            case Distribution.MEASURED:
                return float(self.after(np.array(generator.standard_exponential())))

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Return independent factors."""
        if self.distribution is Distribution.LOGNORMAL:
            return np.exp(self.sigma * generator.standard_normal(shape) - self.sigma**2 / 2)
        return self.after(generator.standard_exponential(shape))

    def after(self, unit: Array) -> Array:
        """Return the factors that a share ``exp(-unit)`` of all exceeds; not of a lognormal.

        If ``unit`` is exponential of mean 1, these are drawn from the distribution.
        """
        if self.distribution is Distribution.EXPONENTIAL:
            return 1.0 - self.sigma + self.sigma * unit
        knees = unit_knees(len(self.quantiles))
        within: Array = np.interp(unit, knees, self.quantiles)
        beyond: Array = np.maximum(0.0, unit - knees[-1])
        return within + self.tail * beyond

    def scaled(self, factor: float) -> "Noise":
        """Return noise ``factor`` times as far from 1, as far as no step takes less than nothing."""
        if self.distribution is not Distribution.MEASURED:
            sigma = self.sigma * factor
            return Noise(self.distribution, sigma if self.distribution is Distribution.LOGNORMAL else min(1.0, sigma))  # fmt: skip
        factor = min(factor, 1.0 / (1.0 - self.quantiles[0])) if self.quantiles[0] < 1.0 else factor
        around = tuple(1.0 + factor * (each - 1.0) for each in self.quantiles)
        return Noise(self.distribution, factor * self.sigma, around, factor * self.tail)


def parse_noise(text: str) -> Noise:
    """Return the noise that ``text`` spells.

    >>> parse_noise("lognormal:0.1")
    Noise(distribution=<Distribution.LOGNORMAL: 'lognormal'>, sigma=0.1, quantiles=(), tail=0.0)
    """
    match = re.fullmatch(r"(lognormal|exponential):(\d+(?:\.\d+)?)", text)
    if match is None or not 0 < float(match[2]) <= 1:
        raise UsageError(
            f"noise must be lognormal or exponential and a spread above 0 and at most 1, such as "
            f"lognormal:0.1, got {text!r}"
        )
    return Noise(Distribution(match[1]), float(match[2]))


def measured_noise(quantiles: Array, tail: float) -> Noise:
    """Return the measured noise of such ``quantiles`` and ``tail``, made to have mean 1 exactly.

    Each piece of slope b in the unit exponential that begins where a share s exceeds it, and ends
    where t does, adds b (s - t) to the mean.
    """
    knees = unit_knees(len(quantiles))
    slopes = np.append(np.diff(quantiles) / np.diff(knees), tail)
    exceeding = np.append(np.exp(-knees), 0.0)
    mean = float(quantiles[0] + slopes @ -np.diff(exceeding))
    plain = Noise(Distribution.MEASURED, 0.0, tuple((quantiles / mean).tolist()), tail / mean)
    return Noise(plain.distribution, _deviation(plain), plain.quantiles, plain.tail)


def quantiles_of(times_s: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Return the quantiles of ``times_s`` over their mean, and the mean excess above the last.

    Too few for a tail have no quantiles.
    """
    if len(times_s) < LEAST_STEPS:
        return (), 0.0
    ratios = np.array(times_s) / np.mean(times_s)
    quantiles = np.quantile(ratios, np.linspace(0.0, LAST_QUANTILE, NUM_QUANTILES))
    above = ratios[ratios > quantiles[-1]] - quantiles[-1]
    return tuple(quantiles.tolist()), float(above.mean()) if above.size else 0.0


def _deviation(noise: Noise) -> float:
    """Return the standard deviation, by the midpoints of many equal shares."""
    shares = (np.arange(100_000) + 0.5) / 100_000
    return float(np.std(noise.after(-np.log1p(-shares))))


@lru_cache
def unit_knees(count: int) -> Array:
    """Return the ``count`` quantiles of a unit exponential, from 0 to ``LAST_QUANTILE``."""
    return -np.log1p(-np.linspace(0.0, LAST_QUANTILE, count))
