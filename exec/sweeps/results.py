"""What a sweep came to: the runs of each cell together, and their speedup."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from exec.sweeps.cells import Cell, Scalar, key_of
from exec.sweeps.journal import Line, Record


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some runs, the least and the greatest."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Result:
    """The runs of one cell: ``cell`` has no seed, ``records`` are by seed.

    ``refusals`` are the trainer's messages, by seed too.
    """

    cell: Cell
    records: dict[Scalar, Record] = field(default_factory=dict)
    refusals: dict[Scalar, str] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """How many ranks it ran on."""
        return int(self.cell["ranks"])

    @property
    def epoch_time_s(self) -> Spread:
        """The time of training one epoch, of each run the median epoch's."""
        return spread(map(_epoch_time_s, self.records.values()))

    @property
    def test_accuracy(self) -> Spread:
        """The share of test samples classified rightly after the last epoch."""
        return spread(record.epochs[-1].test_accuracy for record in self.records.values())

    @property
    def is_oversubscribed(self) -> bool:
        """Whether ranks shared a core."""
        return any(record.oversubscribed for record in self.records.values())

    def curve(self) -> list[tuple[float, float]]:
        """Return the seconds trained and the test accuracy after each epoch, medians of the runs."""
        runs = [record.epochs for record in self.records.values()]
        points, elapsed_s = [], [0.0] * len(runs)
        for epochs in zip(*runs, strict=False):
            elapsed_s = [s + epoch.time_s for s, epoch in zip(elapsed_s, epochs, strict=True)]
            accuracy = statistics.median(epoch.test_accuracy for epoch in epochs)
            points.append((statistics.median(elapsed_s), accuracy))
        return points


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as fast as ``base`` its result is."""

    times: Spread
    base: Result


def results_of(lines: Iterable[Line]) -> list[Result]:
    """Return the results of all cells, in the order of the file."""
    found: dict[str, Result] = {}
    for line in lines:
        cell = {name: value for name, value in line.cell.items() if name != "seed"}
        result = found.setdefault(key_of(cell), Result(cell))
        if line.record is not None:
            result.records[line.cell["seed"]] = line.record
        else:
            result.refusals[line.cell["seed"]] = line.refused or ""
    return list(found.values())


def speedup(result: Result, results: Sequence[Result]) -> Speedup | None:
    """Return how many times as fast ``result``'s epochs are as the median one of its base.

    The base is the run on the fewest ranks that shares all other axes. Where that is more than one
    rank, as of a strategy that needs two, another strategy's run on one rank stands in, if any: one
    rank alone has nothing to share. None if the trainer refused.
    """
    if not result.records:
        return None
    base = _fewest(result, results, ())
    if base.ranks > 1:
        other = _fewest(result, results, ("strategy",))
        base = other if other.ranks == 1 else base
    base_s, own = base.epoch_time_s.middle, result.epoch_time_s
    return Speedup(Spread(base_s / own.middle, base_s / own.high, base_s / own.low), base)


def spread(values: Iterable[float]) -> Spread:
    """Return the median, the least and the greatest of ``values``, of which there is at least one."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def _epoch_time_s(record: Record) -> float:
    return statistics.median(epoch.time_s for epoch in record.epochs)


def _fewest(result: Result, results: Sequence[Result], ignored: Sequence[str]) -> Result:
    """Return the run on the fewest ranks of those like ``result`` in all axes but ``ignored``."""

    def others(cell: Cell) -> Cell:
        return {k: v for k, v in cell.items() if k != "ranks" and k not in ignored}

    alike = (each for each in results if each.records and others(each.cell) == others(result.cell))
    return min(alike, key=lambda each: each.ranks)
