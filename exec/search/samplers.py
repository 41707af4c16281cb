"""Samplers: which configuration trial ``index`` tries.

The grid and the random sampler look at the index only, so that a search may stop, go on, and run
in any order without a difference. Random search finds as good a point as a grid in fewer trials
where few of the dimensions matter: J. Bergstra and Y. Bengio, "Random search for hyper-parameter
optimization", J. Mach. Learn. Res. 13 (2012) 281-305. Any other sampler is Optuna's.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from exec.errors import UsageError, unknown_name
from exec.search.adaptive import ADAPTIVE, adaptive_sampler
from exec.search.record import TrialResult
from exec.search.space import Config, Space, Values

Sampler = Callable[[int, Sequence[TrialResult], Mapping[int, Config]], Config]
"""From a trial's index, the finished trials and the running ones to its configuration."""

SAMPLERS = ("grid", "random", *ADAPTIVE)
DEFAULT_TRIALS = 16  # where the space has no end of its own
_STREAM = 0x73656172  # keeps these draws apart from those of weights, samples and letters


def make_sampler(name: str, space: Space, seed: int) -> Sampler:
    """Return the sampler called ``name``.

    Raises:
        UsageError: no such sampler, it does not fit ``space``, or Optuna is not installed.
    """
    if name not in SAMPLERS:
        raise UsageError(unknown_name("sampler", name, SAMPLERS))
    if name == "grid":
        space.grid_size  # noqa: B018  # refuses ranges
        return lambda index, _finished, _running: grid_config(space, index)
    if name == "random":
        return lambda index, _finished, _running: random_config(space, seed, index)
    return adaptive_sampler(name, space, seed)


def count_trials(name: str, space: Space, asked: int | None) -> int:
    """Return how many trials a search has: ``asked``, or the whole grid, or DEFAULT_TRIALS.

    Raises:
        UsageError: fewer than one, or more than the grid has.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"trials must be at least 1, got {asked}")
    if name != "grid":
        return asked or DEFAULT_TRIALS
    if asked is not None and asked > space.grid_size:
        raise UsageError(
            f"trials must be at most the {space.grid_size} points of the grid, got {asked}"
        )
    return asked or space.grid_size


def grid_config(space: Space, index: int) -> Config:
    """Return point ``index`` of the grid; the last dimension varies fastest."""
    point = {}
    for name, dimension in reversed([*space.dimensions.items()]):
        assert isinstance(dimension, Values)
        index, place = divmod(index, len(dimension.values))
        point[name] = dimension.values[place]
    return space.config(point)


def random_config(space: Space, seed: int, index: int) -> Config:
    """Return random trial ``index``; each dimension's draw depends on nothing but the two."""
    seeds = np.random.SeedSequence(seed, spawn_key=(_STREAM, index))
    draws = np.random.Generator(np.random.PCG64(seeds)).random(len(space.dimensions))
    return space.config({
        name: dimension.at(float(u))
        for (name, dimension), u in zip(space.dimensions.items(), draws, strict=True)
    })  # fmt: skip
