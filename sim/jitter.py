"""Jitter: what noise does to a step, drawn from seeds and in closed form.

A step that all ranks must end takes as long as the slowest of them. The expected largest of P
independent factors is

    E[max] = integral of x d F(x)^P

With F(x)^P = exp(-exp(-g)) the integral is over Gumbel's density of g, which is smooth and falls off
on both sides, so that sums over equal steps of g converge faster than any power of them.

Of groups that are not equally fast, with A the largest of one and B that of all others, it is

    E[max(A, B)] = E[A] + integral of F_A(x) (1 - F_B(x)) dx

Where ranks meet every k steps only, it is the mean of k factors that counts, whose distribution is a
convolution: of a fine grid, by Fourier's transform.

Source: H. A. David and H. N. Nagaraja, "Order Statistics", 3rd edition, Wiley 2003, chapters 2
(moments) and 10 (Gumbel's limit); L. N. Trefethen and J. A. C. Weideman, "The exponentially
convergent trapezoidal rule", SIAM Review 56 (2014) 385-458.
"""

import math
import statistics
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from exec.noise import Array, Distribution, Noise

_STREAM = 1 << 34  # apart from the streams of the trainer
_GUMBEL = np.arange(-4.5, 38.0, 0.05)
_WEIGHTS = np.exp(-_GUMBEL - np.exp(-_GUMBEL))
_GRID = 1 << 14
_LEAST = 1e-12
_INVERSE = statistics.NormalDist().inv_cdf


def paces(noise: Noise, seed: int, ranks: int, turns: int, replicas: int = 1) -> Array:
    """Return by how much each rank's turns differ, of shape ``(replicas, ranks, turns)``.

    They are independent. The same arguments give the same numbers, and those of the first ranks do
    not depend on how many there are.
    """
    seeds = np.random.SeedSequence([seed, _STREAM])
    generator = np.random.Generator(np.random.PCG64(seeds))
    return noise.draw(generator, (ranks, replicas, turns)).transpose(1, 0, 2)


def expected_slowest(noise: Noise, ranks: Mapping[float, int], steps: int = 1) -> float:
    """Return the expected largest of the factors of independent ``ranks``, each over ``steps`` steps.

    ``ranks`` counts them by how many times longer they compute anyway. Of two ranks with exponential
    delays of 0.1 it is 0.9 + 0.1 (1 + 1 / 2):

    >>> f"{expected_slowest(Noise(Distribution.EXPONENTIAL, 0.1), {1.0: 2}):.4f}"
    '1.0500'
    """
    if len(ranks) == 1:
        ((slowness, count),) = ranks.items()
        return slowness * expected_max(noise, count, steps)
    alone = {each: each * expected_max(noise, count, steps) for each, count in ranks.items()}
    last = max(alone, key=alone.__getitem__)
    values = {each: each * _maxima(noise, count, steps) for each, count in ranks.items()}
    every = np.unique(np.concatenate([*values.values()]))
    # -log F of the largest of a group is exp(-g); its quantiles are known at each g.
    none_above = {each: np.exp(-np.interp(every, x, _GUMBEL, right=np.inf)) for each, x in values.items()}  # fmt: skip
    of_last = none_above.pop(last)
    # Only what the others add is summed over the grid: its error is a share of that, and never below 0.
    others = np.exp(-of_last) * -np.expm1(-sum(none_above.values()))
    return alone[last] + float(np.trapezoid(others, every))


@lru_cache(maxsize=4096)
def expected_max(noise: Noise, count: int, steps: int = 1) -> float:
    """Return the expected largest of ``count`` independent factors, each the mean over ``steps``."""
    if count == 1:
        return 1.0
    return 1.0 + float(_WEIGHTS @ (_maxima(noise, count, steps) - _maxima(noise, 1, steps)) / _WEIGHTS.sum())  # fmt: skip


def largest_of(noise: Noise, count: int, gumbel: Array) -> Array:
    """Return draws of the largest of ``count`` factors, made of draws of Gumbel's distribution."""
    return np.interp(gumbel, _GUMBEL, _maxima(noise, count, 1))


def _maxima(noise: Noise, count: int, steps: int) -> Array:
    """Return the quantiles at ``exp(-exp(-g))`` of the largest of ``count`` means of ``steps`` factors."""
    if steps > 1:
        return np.interp(_GUMBEL + math.log(count), *_mean_of(noise, steps))
    if noise.distribution is Distribution.LOGNORMAL:
        return np.exp(noise.sigma * _normal(count) - noise.sigma**2 / 2)
    return noise.after(-np.log(-np.expm1(-np.exp(-_GUMBEL) / count)))


@lru_cache(maxsize=64)
def _mean_of(noise: Noise, steps: int) -> tuple[Array, Array]:
    """Return values of g, and the quantiles there of the mean of ``steps`` factors.

    The grid reaches twelve standard deviations of the sum to both sides, and above it as far as a
    single factor does.
    """
    alone = _maxima(noise, 1, 1)
    weights = _WEIGHTS / _WEIGHTS.sum()
    spread = 12.0 * math.sqrt(steps * float(weights @ (alone - 1.0) ** 2))
    step = (2.0 * spread + float(alone[-1])) / _GRID
    first = -math.ceil(spread / step)
    places = np.arange(first, first + _GRID)
    edges = 1.0 + step * (np.append(places, places[-1] + 1) - 0.5)
    share = np.diff(np.exp(-np.exp(-np.interp(edges, alone, _GUMBEL, left=-np.inf, right=np.inf))))
    around = np.fft.rfft(np.roll(share / share.sum(), first))
    summed = np.roll(np.fft.irfft(around**steps), -first)
    above = np.cumsum(np.maximum(summed[::-1], 0.0))[::-1] / summed.sum()
    is_told = (above > _LEAST) & (above < 1.0 - _LEAST)  # the transform rounds
    values = 1.0 + step * (places - 0.5 - summed @ places) / steps
    return -np.log(-np.log1p(-above[is_told])), values[is_told]


@lru_cache(maxsize=256)
def _normal(count: int) -> Array:
    """Return the quantiles of the largest of ``count`` normal numbers."""
    return np.array([_quantile(math.exp(-g) / count) for g in _GUMBEL])


def _quantile(hazard: float) -> float:
    """Return the normal quantile at ``exp(-hazard)``, exact in both tails."""
    return -_INVERSE(-math.expm1(-hazard)) if hazard < 0.5 else _INVERSE(math.exp(-hazard))
