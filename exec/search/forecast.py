"""The search's makespan on numbers of ranks nobody has tried, from searches that were run."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.table import Table

from exec.errors import UsageError
from exec.search.journal import Contents
from exec.search.makespan import Makespan, forecast_makespan, seconds
from exec.search.record import TrialResult
from exec.transport.pool import num_groups

DEFAULT_RANKS = (1, 2, 3, 5, 9, 17, 33, 65)
"""One to 64 groups of one rank, and the rank that hands out."""


@dataclass(frozen=True, slots=True)
class Row:
    """A forecast for ``ranks`` ranks in groups of ``ranks_per_trial``."""

    ranks: int
    ranks_per_trial: int
    makespan: Makespan


@dataclass(frozen=True, slots=True)
class Check:
    """A session that ran all of its trials: how long it took, and what is forecast for it."""

    ranks: int
    ranks_per_trial: int
    num_trials: int
    measured_s: float
    makespan: Makespan
    oversubscribed: bool


def forecast_rows(
    searches: Sequence[Contents], ranks: Sequence[int], num_trials: int | None = None
) -> list[Row]:
    """Return the forecasts for each number of ``ranks``, for the trials that all searches finished.

    The searches may differ in nothing but their ranks per trial: a trial's length on other groups
    than measured is not known.

    Raises:
        UsageError: they differ in more, share no finished trial, or no group fits any of ``ranks``.
    """
    _check_alike(searches)
    common = sorted(set.intersection(*(set(each.trials) for each in searches)))
    if not common:
        raise UsageError("a forecast needs at least one finished trial, common to all searches; got none")  # fmt: skip
    rows = []
    for count in ranks:
        for contents in searches:
            own = ranks_per_trial(contents)
            if own < count or count == 1:
                lengths_s = [contents.trials[index].time_s for index in common]
                span = forecast_makespan(lengths_s, num_groups(count, own), num_trials, gap_s=gap_s(contents))  # fmt: skip
                rows.append(Row(count, own, span))
    if not rows:
        least = 1 + min(map(ranks_per_trial, searches))
        raise UsageError(f"ranks must be at least {least} somewhere, got {', '.join(map(str, ranks))}")  # fmt: skip
    return rows


def check_last(contents: Contents) -> Check | None:
    """Return how the last session compares with its forecast; None if it has not run to its end."""
    if not contents.sessions:
        return None
    session = contents.sessions[-1]
    own = [each for each in contents.trials.values() if each.session == session.session]
    if not own or len(contents.trials) < session.trials:
        return None
    own.sort(key=lambda result: result.index)  # as they were handed out
    return Check(
        session.ranks, ranks_per_trial(contents), len(own), measured_s(own),
        forecast_makespan([each.time_s for each in own], session.num_groups, gap_s=gap_s(contents)),
        session.oversubscribed,
    )  # fmt: skip


def gap_s(contents: Contents) -> float:
    """Return the mean time between two trials of a group, in which results are written down."""
    by_group: dict[tuple[int, int], list[TrialResult]] = defaultdict(list)
    for each in sorted(contents.trials.values(), key=lambda result: result.started_s):
        by_group[each.session, each.group].append(each)
    gaps_s = [
        after.started_s - before.ended_s
        for own in by_group.values()
        for before, after in pairwise(own)
    ]
    return max(statistics.fmean(gaps_s), 0.0) if gaps_s else 0.0


def measured_s(results: Sequence[TrialResult]) -> float:
    """Return the time from the first start to the last end."""
    return max(each.ended_s for each in results) - min(each.started_s for each in results)


def ranks_per_trial(contents: Contents) -> int:
    """Return of how many ranks the search's groups are."""
    return int(contents.search["ranks_per_trial"])


def forecast_table(rows: Sequence[Row]) -> Table:
    """Return the forecasts for people; the best way to use each number of ranks is bold."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ranks", "per trial", "groups", "makespan", "(90 %)", "at least", "in use"):
        table.add_column(heading, justify="left" if heading == "(90 %)" else "right", no_wrap=True)
    fastest_s: dict[int, float] = {}
    for row in rows:
        fastest_s[row.ranks] = min(row.makespan.time_s, fastest_s.get(row.ranks, row.makespan.time_s))  # fmt: skip
    has_choice = len({row.ranks_per_trial for row in rows}) > 1
    for row in rows:
        span = row.makespan
        is_fastest = has_choice and span.time_s == fastest_s[row.ranks]
        table.add_row(
            str(row.ranks), str(row.ranks_per_trial), str(span.num_groups), seconds(span.time_s),
            f"{seconds(span.low_s)} to {seconds(span.high_s)}", seconds(span.bound_s),
            f"{span.efficiency:.0%}", style="bold" if is_fastest else None,
        )  # fmt: skip
    return table


def check_line(check: Check) -> str:
    """Return the check for people."""
    span = check.makespan
    shared = "; the ranks shared cores" if check.oversubscribed else ""
    return (
        f"this search: {check.num_trials} trials on {check.ranks} rank{'s' * (check.ranks > 1)} took "
        f"{seconds(check.measured_s)}, list scheduling of what was measured gives {seconds(span.time_s)} "
        f"({check.measured_s / span.time_s - 1:+.1%}){shared}"
    )


def _check_alike(searches: Sequence[Contents]) -> None:
    first = {**searches[0].search, "ranks_per_trial": None}
    for other in searches[1:]:
        for name, value in other.search.items():
            if name != "ranks_per_trial" and first.get(name) != value:
                raise UsageError(
                    f"searches must differ in ranks-per-trial only to be compared, got "
                    f"{name.replace('_', '-')} {first.get(name)} and {value}"
                )
