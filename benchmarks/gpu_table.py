"""What ``gpu.py`` prints: steps against PyTorch, products against the card, ways to replay a step."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

Record = dict[str, Any]


def gpu_tables(head: Record, records: Sequence[Record]) -> Iterator[str | Table]:
    """Yield a table for each kind of record there is, and the lines around them."""
    device = head["device"]
    libraries = ", ".join(f"{name} {version}" for name, version in device["software"].items())
    torch = f"torch {head['torch']}" if head["has_torch"] else "without PyTorch"
    yield f"{device['name']}; {libraries}; {torch}; float32\n"
    for kind, table in (("step", _steps), ("product", _products), ("replay", _replays)):
        if chosen := [each for each in records if each["kind"] == kind]:
            yield table(chosen)
            yield ""
    yield from _notes(records)


def _steps(records: Sequence[Record]) -> Table:
    """Return ms a step: ours, the whole epoch's, and the best of PyTorch's kinds."""
    kinds = ("eager", "graph", "compile")
    table = _table(("net", "batch", "TF32", "Stepcast", "(rounds)", "TFLOP/s", "epoch", *kinds, "best form",
                    "speed / best", "speed / eager"), left=("net", "best form"))  # fmt: skip
    for record in records:
        times = record["step_s"]
        own = times["stepcast"]
        best = {kind: min((each["median"] for name, each in times.items() if kind in _kinds(name)), default=None)
                for kind in kinds}  # fmt: skip
        table.add_row(
            record["net"], str(record["batch"]), _on(record), _ms(own["median"]),
            f"{_ms(own['low'])}-{_ms(own['high'])}", f"{record['flops'] / own['median'] / 1e12:.3g}", _ms(times["epoch"]["median"]),
            *(_ms(best[kind]) for kind in kinds), record["best"] or "",
            _ratio(record["speed_over_best"]), _ratio(record["speed_over_eager"]),
        )  # fmt: skip
    return table


def _kinds(name: str) -> tuple[str, ...]:
    """Return the columns that PyTorch's form ``name`` counts in: one that is both only as a graph."""
    if "graph" in name.split():
        return ("graph",)
    return (name.split(maxsplit=1)[0],)


def _products(records: Sequence[Record]) -> Table:
    """Return TFLOP/s by route, and the best one's share of the card's rate."""
    routes = list(dict.fromkeys(route for each in records for route in each["tflops"]))
    table = _table(("product", "TF32", *(f"{route}" for route in routes), "best", "of the card"),
                   left=("product", "best"))  # fmt: skip
    for record in records:
        rates = record["tflops"]
        table.add_row(
            record["name"], _on(record), *(f"{rates[route]:.3g}" if route in rates else "" for route in routes),
            record["best"], f"{record['share_of_card'][record['best']]:.0%}",
        )  # fmt: skip
    return table


def _replays(records: Sequence[Record]) -> Table:
    """Return ms a step by way, ordered as measured."""
    ways = list(records[0]["step_s"])
    table = _table(("net", "batch", *ways, "fastest"), left=("net", "fastest"))
    for record in records:
        times = (_ms(record["step_s"][way]["median"]) for way in ways)
        table.add_row(record["net"], str(record["batch"]), *times, record["fastest"])
    return table


def _notes(records: Sequence[Record]) -> Iterator[str]:
    """Yield a line for whatever did not agree, failed, or was not measured."""
    for record in records:
        agreement = record.get("agreement")
        if agreement is not None and not agreement["is_close"]:
            yield (f"differs: {_name(record)}: moves differ by {agreement['move_rel_difference']:.2g}, "
                   f"at most {agreement['tolerance']:.2g} was expected")  # fmt: skip
        for form, reason in record.get("failed", {}).items():
            yield f"failed: {_name(record)}: {form}: {reason}"
        if record["kind"] == "skipped":
            yield f"skipped: {_name(record)}: {record['reason']}"


def _name(record: Record) -> str:
    return f"{record['net']}, batch {record['batch']}, TF32 {_on(record)}"


def _on(record: Record) -> str:
    return "on" if record["is_tf32"] else "off"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.4g}"


def _ratio(spread: Record | None) -> str:
    return "" if spread is None else "{median:.2f} ({low:.2f}..{high:.2f})".format(**spread)


def _table(headings: Sequence[str], *, left: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    return table
