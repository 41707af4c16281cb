"""The search space: for each hyper-parameter a list of values or a range, spelt as on the command line.

A comma separates values (``50,100``), a colon the ends of a range (``0.1:1.0``). A range is drawn
from evenly in the logarithm where ratios matter (units, batch, learning rate), else evenly.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from exec.errors import UsageError, unknown_name
from exec.network.network import Network, mlp


@dataclass(frozen=True, slots=True)
class Config:
    """One point of a space: what a trial trains."""

    layers: int  # hidden ones
    units: int  # of each hidden layer
    learning_rate: float
    batch: int
    epochs: int

    def network(self, num_features: int, num_classes: int) -> Network:
        """Return the network: dense layers with sigmoids between them."""
        return mlp(num_features, *[self.units] * self.layers, num_classes)

    def __str__(self) -> str:
        """Return it for people."""
        return (
            f"{self.layers} x {self.units} units, rate {self.learning_rate:.4g}, "
            f"batch {self.batch}, {self.epochs} epoch{'s' * (self.epochs > 1)}"
        )


@dataclass(frozen=True, slots=True)
class Values:
    """A list of values, each once."""

    values: tuple[float, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return min(self.values), max(self.values)

    def at(self, u: float) -> float:
        """Return the value at ``u`` in [0, 1)."""
        return self.values[int(u * len(self.values))]

    def __str__(self) -> str:
        """Return it as the command line spells it."""
        return ",".join(map(str, self.values))


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from ``low`` to ``high``, both included; whole ones if ``is_whole``."""

    low: float
    high: float
    is_whole: bool
    is_log: bool

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return self.low, self.high

    def at(self, u: float) -> float:
        """Return the value at ``u`` in [0, 1); a whole number owns half a unit on either side."""
        half = 0.5 if self.is_whole else 0.0
        low, high = self.low - half, self.high + half
        value = low * (high / low) ** u if self.is_log else low + u * (high - low)
        inside = min(max(value, self.low), self.high)
        return math.floor(inside + half) if self.is_whole else inside

    def __str__(self) -> str:
        """Return it as the command line spells it."""
        return f"{self.low}:{self.high}"


Dimension = Values | Range


@dataclass(frozen=True, slots=True)
class _Kind:
    is_whole: bool
    is_log: bool
    most: float = 10**7


DIMENSIONS = {
    "layers": _Kind(is_whole=True, is_log=False, most=1000),
    "units": _Kind(is_whole=True, is_log=True),
    "learning_rate": _Kind(is_whole=False, is_log=True, most=1e308),
    "batch": _Kind(is_whole=True, is_log=True),
    "epochs": _Kind(is_whole=True, is_log=False),
}
"""What can be searched over; the random sampler draws in this order."""


@dataclass(frozen=True, slots=True)
class Space:
    """What to search: a dimension for each name in DIMENSIONS, in their order."""

    dimensions: Mapping[str, Dimension]

    @property
    def grid_size(self) -> int:
        """How many points the grid has.

        Raises:
            UsageError: a dimension is a range, which has no end of points.
        """
        size = 1
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise UsageError(
                    f"{_option(name)} must be values joined by ',' for a grid, got {dimension}; "
                    f"name the values, or use --sampler random"
                )
            size *= len(dimension.values)
        return size

    def config(self, point: Mapping[str, float]) -> Config:
        """Return the configuration that has the values of ``point``."""
        typed = {
            name: int(point[name]) if kind.is_whole else float(point[name])
            for name, kind in DIMENSIONS.items()
        }
        return Config(**typed)  # type: ignore[arg-type]  # whole where they must be

    def spelled(self) -> dict[str, str]:
        """Return what :func:`parse_space` reads."""
        return {name: str(dimension) for name, dimension in self.dimensions.items()}


def parse_space(texts: Mapping[str, str]) -> Space:
    """Return the space that ``texts``, a text for each name in DIMENSIONS, spells.

    Raises:
        UsageError: a name is unknown or missing, or a text is no list and no range.

    >>> parse_space({"layers": "1,2", "units": "50:200", "learning_rate": "0.1:1",
    ...              "batch": "32", "epochs": "3"}).dimensions["units"]
    Range(low=50, high=200, is_whole=True, is_log=True)
    """
    for name in texts:
        if name not in DIMENSIONS:
            raise UsageError(unknown_name("a dimension of the space", name, DIMENSIONS))
    if missing := [name for name in DIMENSIONS if name not in texts]:
        raise UsageError(f"the space must have {', '.join(DIMENSIONS)}, got no {missing[0]}")
    return Space({name: _parse(name, texts[name]) for name in DIMENSIONS})


def _parse(name: str, text: str) -> Dimension:
    kind = DIMENSIONS[name]
    separator = ":" if ":" in text else ","
    numbers = [_number(name, word, text) for word in text.split(separator)]
    if separator == ":":
        if len(numbers) != 2:
            raise UsageError(f"{_option(name)} must be a range LOW:HIGH, got {text!r}")
        low, high = numbers
        if low >= high:
            raise UsageError(f"{_option(name)} must be a range whose low end is below the high one, got {text!r}, which is empty")  # fmt: skip
        return Range(low, high, kind.is_whole, kind.is_log)
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{_option(name)} must name each value once, got {text!r}")
    return Values(tuple(numbers))


def _number(name: str, word: str, text: str) -> float:
    """Return the number that ``word``, a part of ``text``, spells."""
    kind = DIMENSIONS[name]
    word = word.strip()
    if not re.fullmatch(r"[0-9]+" if kind.is_whole else r"[-+.0-9]+([eE][-+]?[0-9]+)?", word):
        raise UsageError(_not_numbers(name, text))
    try:
        value = int(word) if kind.is_whole else float(word)
    except ValueError:
        raise UsageError(_not_numbers(name, text)) from None
    if not 0 < value <= kind.most:
        raise UsageError(
            f"{_option(name)} must be above 0 and at most {kind.most:g}, got {word} in {text!r}"
        )
    return value


def _not_numbers(name: str, text: str) -> str:
    what = "whole numbers" if DIMENSIONS[name].is_whole else "numbers"
    return f"{_option(name)} must be {what}, joined by ',' or a range LOW:HIGH, got {text!r}"


def _option(name: str) -> str:
    return name.replace("_", "-")
