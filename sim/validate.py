"""Judge forecasts by measurements that were not fitted: ``python -m sim.validate``.

Each file is fitted on its small part, or forecast by a Machine that has not seen it; the split is
printed with the errors.
"""

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from calibration.find import find_machine
from exec.cli import console, make_app, run_app
from sim.evidence import COVERAGE, Evidence, Judged, Verdict, verdict_of
from sim.evidence_files import evidence_of
from sim.evidence_plot import draw_evidence

app = make_app("python -m sim.validate", "Judge forecasts by measurements that were not fitted.")
Flag = Annotated[bool, Parameter(negative=())]


@app.default
def validate(
    files: Annotated[list[Path], Parameter(negative_iterable=())], /, *, machine: str | None = None,
    cases: Flag = False, plot: Path | None = None, json: Flag = False,
) -> None:  # fmt: skip
    """Judge forecasts by measurements that were not fitted.

    Parameters
    ----------
    files
        Measurements: JSON lines of sim.check or benchmarks/scaling.py.
    machine
        The Machine that forecasts what brings none of its own: a name or a file.
    cases
        Print every case too.
    plot
        Draw forecast against measured here (PNG, SVG or PDF).
    json
        Print one JSON record instead of tables.
    """
    found = None if machine is None else find_machine(machine)
    evidence = [each for path in files for each in evidence_of(path, found)]
    if plot is not None:
        draw_evidence(plot, evidence)
    if json:
        print(json_format.dumps(record_of(evidence), allow_nan=False))
        return
    _print(evidence, shows_cases=cases)


def record_of(evidence: Sequence[Evidence]) -> dict[str, Any]:
    """Return all that was judged, for machines."""
    return {
        "sources": [
            {"source": each.source, "split": each.split, **asdict(verdict_of(each.cases)),
             "cases": [asdict(case) | {"error": case.error, "is_inside": case.is_inside} for case in each.cases]}
            for each in evidence
        ],
        "all": asdict(verdict_of([case for each in evidence for case in each.cases])),
    }  # fmt: skip


def _print(evidence: Sequence[Evidence], *, shows_cases: bool) -> None:
    out = console(150)
    if shows_cases:
        for each in evidence:
            out.print(_cases(each))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("source", "cases", "median error", "one in ten above", "bias", "inside", "ranked right"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "source" else "right", no_wrap=True)
    for each in evidence:
        table.add_row(each.source, *_cells(verdict_of(each.cases)))
    if len(evidence) > 1:
        table.add_row("all", *_cells(verdict_of([case for each in evidence for case in each.cases])))  # fmt: skip
    out.print(table)
    out.print(f"inside: in their {COVERAGE:.0%} interval; ranked right: of the pairs that do the same work and differ by more than the noise")  # fmt: skip
    for each in evidence:
        out.print(f"split of {each.source}: {each.split}")


def _cells(verdict: Verdict) -> list[str]:
    ranked = f"{verdict.num_ranked_right} of {verdict.num_ranked}" if verdict.num_ranked else ""
    return [
        str(verdict.count), f"{verdict.median_error:.1%}", f"{verdict.p90_error:.1%}", f"{verdict.bias:+.1%}",
        f"{verdict.coverage:.0%}", ranked,
    ]  # fmt: skip


def _cases(evidence: Evidence) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=evidence.source, title_justify="left")  # fmt: skip
    for heading in ("case", "measured us", "forecast us", "(90 %)", "error", ""):
        table.add_column(
            heading, justify="left" if heading in ("case", "") else "right", no_wrap=True
        )
    for case in evidence.cases:
        table.add_row(*_case(case))
    return table


def _case(case: Judged) -> list[str]:
    return [
        case.label, f"{case.measured_s * 1e6:.4g}", f"{case.forecast_s * 1e6:.4g}",
        f"{case.low_s * 1e6:.4g} to {case.high_s * 1e6:.4g}", f"{case.error:+.1%}",
        "" if case.is_inside else "outside",
    ]  # fmt: skip


if __name__ == "__main__":
    run_app(app)
