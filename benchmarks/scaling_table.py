"""What ``scaling.py`` prints: a row a case, how far forecasts missed, and what was skipped."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

Record = dict[str, Any]

_TEXT = ("net", "strategy", "dp x pp x tp")
_HEADINGS = ("net", "batch", "strategy", "dp x pp x tp", "ranks", "measured ms", "(rounds)", "forecast ms",
             "(90 %)", "error", "inside", "speedup", "(rounds)", "forecast", "(90 %)")  # fmt: skip


def scaling_table(
    head: Record, records: Sequence[Record], skipped: Sequence[Record]
) -> Iterator[str | Table]:
    """Yield the table and the lines around it."""
    bound = ", ".join(f"{ranks}: {how or 'not bound'}" for ranks, how in head["bound"].items())
    yield (
        f"{head['cpu']}, {head['cores']} cores ({head['physical_cores']} physical), {head['blas']}, load average "
        f"{head['load_average']}; ranks bound: {bound or 'none'}\n"
    )  # fmt: skip
    if head["load_average"] is not None and head["load_average"] > head["cores"] / 4:
        yield "warning: other work shares the cores; measure again on a quiet machine\n"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in _TEXT else "right", no_wrap=True)
    for record in records:
        table.add_row(*_cells(record))
    yield table
    for label, chosen in (
        ("1 and 2 ranks, as calibrated", [each for each in records if each["was_seen"]]),
        ("more ranks than anybody had run", [each for each in records if not each["was_seen"]]),
    ):
        if chosen:
            errors = sorted(abs(each["error"]) for each in chosen)
            inside = sum(each["is_inside"] for each in chosen)
            yield (f"{label}: median error {statistics.median(errors):.1%}, {errors[0]:.1%} to {errors[-1]:.1%}; "
                   f"{inside} of {len(chosen)} inside their 90 % interval")  # fmt: skip
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for each in skipped:
        reason = each["reason"].split(", got")[0]
        reasons[reason][f"{each['net']} {each['strategy']}"].append(str(each["ranks"]))
    for reason, plans in reasons.items():
        told = "; ".join(f"{plan} on {', '.join(ranks)}" for plan, ranks in plans.items())
        yield f"skipped, {reason}: {told}"


def _cells(record: Record) -> Iterator[str]:
    def ms(key: str) -> str:
        return f"{record[key] * 1e3:.3g}"

    yield from (str(record[key]) for key in ("net", "batch", "strategy", "mesh", "ranks"))
    yield from (ms("measured_s"), f"{ms('measured_low_s')}-{ms('measured_high_s')}")
    yield from (ms("forecast_s"), f"{ms('forecast_low_s')}-{ms('forecast_high_s')}")
    yield from (f"{record['error']:+.1%}", "yes" if record["is_inside"] else "no")
    for key in ("speedup", "forecast_speedup"):
        each = record[key]
        yield from (f"{each['median']:.2f}", f"{each['low']:.2f}-{each['high']:.2f}")
