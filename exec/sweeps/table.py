"""What a sweep came to, as a table for people."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from exec.sweeps.results import Result, Spread, speedup

TABLE_WIDTH = 200  # what the table needs; a narrower terminal wraps its lines


def print_results(out: Console, results: Sequence[Result], share: str) -> None:
    """Print one row for each of ``results``; ``share`` says what ranks are: ranks or threads."""
    names = list(results[0].cell)
    is_repeated = any(len(result.records) > 1 for result in results)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(share if name == "ranks" else name.replace("_", " "), justify="right", no_wrap=True)  # fmt: skip
    for heading in ("s an epoch", "speedup", "test accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
        if is_repeated:
            table.add_column("(runs)", justify="left", no_wrap=True)
    table.add_column("", justify="left")
    for result in results:
        table.add_row(*(str(result.cell[name]) for name in names), *_cells(result, results, is_repeated, share))  # fmt: skip
    out.print(table)


def _cells(result: Result, results: Sequence[Result], is_repeated: bool, share: str) -> Iterator[str]:  # fmt: skip
    if not result.records:
        yield from [""] * (6 if is_repeated else 3)
    else:
        found = speedup(result, results)
        yield from _spread(result.epoch_time_s, is_repeated, "{:.4g}")
        yield from _spread(found.times if found else None, is_repeated, "{:.2f}")
        yield from _spread(result.test_accuracy, is_repeated, "{:.2%}")
    yield "; ".join(_notes(result, results, share))


def _spread(found: Spread | None, is_repeated: bool, form: str) -> Iterator[str]:
    yield form.format(found.middle) if found else ""
    if is_repeated:
        yield f"{form.format(found.low)} to {form.format(found.high)}" if found else ""


def _notes(result: Result, results: Sequence[Result], share: str) -> Iterator[str]:
    if result.is_oversubscribed:
        yield "oversubscribed"
    found = speedup(result, results)
    if found is not None and found.base.ranks > 1:
        yield f"speedup over {found.base.ranks} {share}"
    elif found is not None and found.base.cell.get("strategy") != result.cell.get("strategy"):
        yield f"speedup over {found.base.cell['strategy']} on 1"
    if result.refusals:
        message = next(iter(result.refusals.values())).splitlines()[0]
        num_refused = len(result.refusals)
        yield f"refused{f' {num_refused} times' * bool(result.records)}: {message}"
