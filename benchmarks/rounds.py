"""Rounds: contenders measured in turn, so that what the machine does to one it does to all.

A ratio is taken inside each round and only then summed up: a machine that slows down for a
minute slows the whole round, and the drift cancels.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the least and the most of one number over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"


def interleave(
    contenders: Mapping[str, Callable[[Input], Output]], inputs: Iterable[Input]
) -> dict[str, list[Output]]:
    """Return what each contender returned for each input: A B C, A B C, one round an input."""
    returned: dict[str, list[Output]] = {name: [] for name in contenders}
    for each in inputs:
        for name, run in contenders.items():
            returned[name].append(run(each))
    return returned


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of ``values``."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the spread of the ratios inside each round.

    >>> print(ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]))
    2 (2..3)
    """
    return spread([a / b for a, b in zip(over, under, strict=True)])
