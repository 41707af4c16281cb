"""What a search came to: for machines as JSON, for people as a few lines."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from exec.data.dataset import Dataset
from exec.search.best import WEIGHTS
from exec.search.forecast import Check, Row, check_line, forecast_table
from exec.search.journal import Contents
from exec.search.record import State, best_trial
from exec.search.search import Search
from exec.search.view import trial_table

_MOST_ROWS = 10


def headline(search: Search, dataset: Dataset, ranks: int, num_groups: int) -> str:
    """Return what is about to be searched, in two lines."""
    space = ", ".join(f"{name.replace('_', '-')} {text}" for name, text in search.space.spelled().items())  # fmt: skip
    size = search.ranks_per_trial
    on = f"{num_groups} group{'s' * (num_groups > 1)} of {size} rank{'s' * (size > 1)}"
    if ranks > 1 and (idle := ranks - 1 - num_groups * size):
        on += f", {idle} left over"
    return (
        f"{search.num_trials} trials ({search.sampler}) on {dataset.name} "
        f"({len(dataset.train_labels)} training, {len(dataset.test_labels)} test samples), {on}\n{space}"
    )


def print_search(out: Console, contents: Contents, folder: Path) -> None:
    """Print the best trials, where their weights are, and how to train the first again."""
    results = list(contents.trials.values())
    best = best_trial(results)
    failed = sum(each.state is State.FAILED for each in results)
    if best is None:
        out.print(f"all {failed} trials failed; the first because {results[0].reason}")
        return
    ranking = sorted((each for each in results if each.accuracy is not None),
                     key=lambda each: (-(each.accuracy or 0.0), each.loss, each.index))  # fmt: skip
    out.print(trial_table(ranking[:_MOST_ROWS], best))
    if failed or len(ranking) > _MOST_ROWS:
        out.print(f"{len(ranking)} trials trained, {failed} failed")
    out.print(f"best: trial {best.index}, {best.config}: {best.accuracy:.2%} of the validation samples; "
              f"weights in {folder / WEIGHTS}")  # fmt: skip


def print_forecasts(out: Console, rows: Sequence[Row], checks: Sequence[Check]) -> None:
    """Print the makespans, and how the searches that ran compare with theirs."""
    sizes = sorted({row.ranks_per_trial for row in rows})
    out.print()
    out.print(forecast_table(rows))
    for check in checks:
        out.print(check_line(check))
    out.print("a trial is taken to last as it did here: measure with as many on a node as will share it")  # fmt: skip
    if len(sizes) == 1:
        out.print(f"other than {sizes[0]} rank{'s' * (sizes[0] > 1)} a trial was not measured: search with --ranks-per-trial and "
                  f"another --out, then python -m exec.tune forecast FOLDER FOLDER")  # fmt: skip


def search_record(contents: Contents, rows: Sequence[Row], checks: Sequence[Check]) -> dict[str, Any]:  # fmt: skip
    """Return the whole search, its forecasts and their checks."""
    results = sorted(contents.trials.values(), key=lambda each: each.index)
    best = best_trial(results)
    return {
        "best": None if best is None else best.index,
        "trials": [each.model_dump(mode="json") for each in results],
        "sessions": [each.model_dump(mode="json") for each in contents.sessions],
        "makespan": [asdict(row) for row in rows],
        "checks": [asdict(check) for check in checks],
        "provenance": contents.head,
    }
