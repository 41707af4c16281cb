"""Samplers that learn from the trials so far: Optuna's, as an extra.

A new study is made for every trial and told all that the journal knows, and its sampler is seeded
by (seed, index): what is suggested depends on the finished and the running trials alone. So a
search that was killed goes on as it would have, and Optuna needs no storage of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from exec.errors import UsageError
from exec.search.record import TrialResult
from exec.search.space import Config, Dimension, Space, Values

ADAPTIVE = ("tpe", "gp")  # tree-structured Parzen estimators; Gaussian processes (these need torch)
_STREAM = 0x6F707475


def adaptive_sampler(
    name: str, space: Space, seed: int
) -> Callable[[int, Sequence[TrialResult], Mapping[int, Config]], Config]:
    """Return Optuna's sampler called ``name``.

    Raises:
        UsageError: Optuna, or what the sampler needs, is not installed.
    """
    try:
        import optuna  # noqa: PLC0415  # an extra, and slow to import

        if name == "gp":
            import torch  # noqa: F401, PLC0415  # what Optuna would miss in the first trial
    except ImportError as error:
        more = ", and torch" if name == "gp" else ""
        raise UsageError(
            f"sampler {name} needs Optuna{more}; install the tune extra "
            f"(pip install 'stepcast[tune]'{more}), or use --sampler random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {
        dimension_name: _distribution(optuna.distributions, dimension)
        for dimension_name, dimension in space.dimensions.items()
    }
    make = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}[name]

    def sample(
        index: int, finished: Sequence[TrialResult], running: Mapping[int, Config]
    ) -> Config:
        own_seed = np.random.SeedSequence(seed, spawn_key=(_STREAM, index)).generate_state(1)
        study = optuna.create_study(direction="maximize", sampler=make(seed=int(own_seed[0])))
        for result in sorted(finished, key=lambda result: result.index):
            study.add_trial(optuna.trial.create_trial(
                params=_params(space, result.config), distributions=distributions,
                # A trial that failed is as bad as one that learnt nothing.
                value=result.accuracy if result.accuracy is not None else 0.0,
            ))  # fmt: skip
        for _, config in sorted(running.items()):
            study.add_trial(optuna.trial.create_trial(
                params=_params(space, config), distributions=distributions,
                state=optuna.trial.TrialState.RUNNING,
            ))  # fmt: skip
        return space.config(study.ask(distributions).params)

    return sample


def _distribution(known: Any, dimension: Dimension) -> Any:
    """Return the dimension as one of Optuna's distributions."""
    if isinstance(dimension, Values):
        return known.CategoricalDistribution(dimension.values)
    make = known.IntDistribution if dimension.is_whole else known.FloatDistribution
    return make(dimension.low, dimension.high, log=dimension.is_log)


def _params(space: Space, config: Config) -> dict[str, float]:
    return {name: getattr(config, name) for name in space.dimensions}
