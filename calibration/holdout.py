"""Held-out measurements: fit on a part of a table, forecast the rest, and compare.

Pure functions over :class:`calibration.importers.measured.Measured`. Nothing of the held-out part
is seen by the fit; what else is given are links that somebody states, as a data sheet would.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.collective_fit import fit_collectives
from calibration.collective_tiers import collective_estimate
from calibration.importers.measured import Measured
from calibration.machine import Link, Machine, Tier
from exec.errors import MachineError

Split = Callable[[Sequence[Measured]], tuple[list[Measured], list[Measured]]]
"""Cuts measurements into those to fit and those to forecast."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A measurement that the fit did not see, and what it forecast."""

    measured: Measured
    forecast_s: float
    low_s: float
    high_s: float

    @property
    def error(self) -> float:
        """The relative error, positive where the forecast is too long."""
        return self.forecast_s / self.measured.time_s - 1.0

    @property
    def is_inside(self) -> bool:
        """Say whether the 90 % interval holds the measurement."""
        return self.low_s <= self.measured.time_s <= self.high_s


@dataclass(frozen=True, slots=True)
class Score:
    """How well held-out measurements were forecast; errors are of absolute value but the bias."""

    num_fitted: int
    num_forecast: int
    num_unanswered: int
    median: float
    percentile_90: float
    bias: float
    coverage: float


def at_most_ranks(most: int) -> Split:
    """Return the split that fits what at most ``most`` ranks took, and forecasts more."""

    def split(found: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
        small = [each for each in found if each.ranks <= most]
        return small, [each for each in found if each.ranks > most]

    return split


def every_other_size(found: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """Return the first, the third and so on of the sizes of each operation and layout, and the others.

    A series of fewer than three sizes is all kept. Empty messages are neither fitted nor forecast.
    """
    sizes: dict[tuple[str, int, int], set[int]] = defaultdict(set)
    for each in found:
        if each.nbytes:
            sizes[each.operation, each.ranks, each.nodes].add(each.nbytes)
    kept = {key: set(sorted(own)[::2] if len(own) > 2 else own) for key, own in sizes.items()}
    fitted: list[Measured] = []
    held: list[Measured] = []
    for each in found:
        if each.nbytes:
            is_kept = each.nbytes in kept[each.operation, each.ranks, each.nodes]
            (fitted if is_kept else held).append(each)
    return fitted, held


def hold_out(
    found: Sequence[Measured], split: Split, links: dict[Tier, Link] | None = None
) -> tuple[list[HeldOut], Machine, list[Measured]]:
    """Return the forecasts of what ``split`` holds out, the Machine they are from, and what it cannot answer.

    Raises:
        MachineError: there is nothing to fit or nothing to forecast.
    """
    fitted, held = split(found)
    if not fitted or not held:
        raise MachineError(f"a split must leave measurements to fit and to forecast, got {len(fitted)} and {len(held)}")  # fmt: skip
    machine = Machine(
        format="stepcast-machine-1", name="held out", description="fitted to a part of a table",
        provenance={}, collectives=fit_collectives(fitted, "fitted part"), links=links or {},
    )  # fmt: skip
    answers: list[HeldOut] = []
    unanswered: list[Measured] = []
    for each in held:
        estimate = collective_estimate(machine, each.operation, each.ranks, each.nodes, each.nbytes)
        if estimate is None:
            unanswered.append(each)
        else:
            answers.append(HeldOut(each, estimate.time_s, *estimate.interval_s()))
    return answers, machine, unanswered


def score(answers: Sequence[HeldOut], num_fitted: int = 0, num_unanswered: int = 0) -> Score:
    """Return the errors of ``answers`` together.

    Raises:
        MachineError: there are none.
    """
    if not answers:
        raise MachineError("nothing that was held out can be forecast from what was fitted")
    errors = np.array([each.error for each in answers])
    return Score(
        num_fitted, len(answers), num_unanswered,
        float(np.median(np.abs(errors))), float(np.quantile(np.abs(errors), 0.9)),
        math.exp(float(np.median([math.log1p(each) for each in errors]))) - 1.0,
        sum(each.is_inside for each in answers) / len(answers),
    )  # fmt: skip
