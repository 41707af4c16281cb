"""Evidence: measured values beside what was forecast of them without having seen them.

A forecast is judged by its error, by whether its interval held, and by whether plans were ranked as
they turned out.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

COVERAGE = 0.9
"""The share of measured values that intervals are meant to contain."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One measured value and its forecast, in seconds; the interval is from ``low_s`` to ``high_s``.

    Cases of one ``group`` do the same work in different ways, so that which is faster means
    something. ``spread`` is by how much of itself the measured value differed between repeats; None
    where it was measured once. ``extrapolation`` is how many times as many ranks it has as the most
    that were fitted, at least 1. Of both times ``given_s`` was given, not forecast.
    """

    label: str
    group: str
    measured_s: float
    forecast_s: float
    low_s: float
    high_s: float
    spread: float | None = None
    extrapolation: float = 1.0
    what: str = ""
    ranks: int = 1
    nbytes: int | None = None
    given_s: float = 0.0

    @property
    def error_of_rest(self) -> float:
        """By how much of what was not given the forecast is too long."""
        return (self.forecast_s - self.measured_s) / (self.measured_s - self.given_s)

    @property
    def error(self) -> float:
        """By how much of the measured value the forecast is too long."""
        return self.forecast_s / self.measured_s - 1.0

    @property
    def is_inside(self) -> bool:
        """Whether the interval contains the measured value."""
        return self.low_s <= self.measured_s <= self.high_s


@dataclass(frozen=True, slots=True)
class Evidence:
    """The cases of one source; ``split`` says what was fitted and what was not.

    Those that stand ``is_apart`` are no part of what all come to: nothing was calibrated for how they
    ran. Where a source ``is_relative`` all its times are shares of what was measured. ``num_fitted``
    are the measurements of the same file that were fitted, if any were.
    """

    source: str
    split: str
    cases: tuple[Judged, ...]
    is_apart: bool = False
    is_relative: bool = False
    num_fitted: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the errors of several cases come to; ``bias`` is by how much forecasts are too long in the mean.

    ``num_ranked`` pairs differ by more than the noise, and of those ``num_ranked_right`` were
    forecast to differ in the same direction. Where a part of the times was given,
    ``median_error_of_rest`` is that of the rest, as of messages where compute is known; else None.
    """

    count: int
    median_error: float
    p90_error: float
    bias: float
    coverage: float
    num_ranked: int
    num_ranked_right: int
    median_error_of_rest: float | None = None


def verdict_of(cases: Sequence[Judged]) -> Verdict:
    """Return what ``cases``, one at least, come to.

    Errors are absolute; the bias is the geometric mean of forecast over measured, less one, in which
    half and twice as long weigh the same.
    """
    errors = sorted(abs(case.error) for case in cases)
    logs = [math.log(case.forecast_s / case.measured_s) for case in cases]
    ranked = list(ranked_pairs(cases))
    rests = [abs(case.error_of_rest) for case in cases if case.given_s]
    return Verdict(
        count=len(cases),
        median_error=statistics.median(errors),
        p90_error=errors[math.ceil(0.9 * len(errors)) - 1],
        bias=math.expm1(statistics.fmean(logs)),
        coverage=sum(case.is_inside for case in cases) / len(cases),
        num_ranked=len(ranked),
        num_ranked_right=sum(ranked),
        median_error_of_rest=statistics.median(rests) if rests else None,
    )


def counted(evidence: Iterable[Evidence]) -> list[Judged]:
    """Return the cases of all that does not stand apart."""
    return [case for each in evidence if not each.is_apart for case in each.cases]


def ranked_pairs(cases: Iterable[Judged]) -> Iterable[bool]:
    """Yield, for each pair of a group that differs by more than its noise, whether it was ranked right.

    >>> fast = Judged("fast", "all", 1.0, 1.2, 1.0, 1.4, 0.01)
    >>> slow = Judged("slow", "all", 2.0, 1.9, 1.5, 2.4, 0.01)
    >>> list(ranked_pairs([fast, slow]))
    [True]
    """
    groups: dict[str, list[Judged]] = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    for group in groups.values():
        for one, other in combinations(group, 2):
            apart_s = one.measured_s - other.measured_s
            noise = (one.spread or 0.0) * one.measured_s + (other.spread or 0.0) * other.measured_s
            if abs(apart_s) > noise:
                forecast_s = one.forecast_s - other.forecast_s
                yield forecast_s != 0 and (forecast_s > 0) == (apart_s > 0)
