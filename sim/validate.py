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
from calibration.importers.measured import Operation
from calibration.importing import layout_of, where_of
from calibration.machine import Machine, Tier
from calibration.stated import parse_links
from exec.cli import console, make_app, run_app
from exec.network.profile import parse_count
from sim.evidence import COVERAGE, Evidence, Judged, Verdict, counted, verdict_of
from sim.evidence_files import evidence_of, is_records
from sim.evidence_plot import draw_evidence
from sim.evidence_tables import Stated, parse_fit, table_evidence

app = make_app("python -m sim.validate", "Judge forecasts by measurements that were not fitted.")
Flag = Annotated[bool, Parameter(negative=())]


@app.default
def validate(
    files: Annotated[list[Path], Parameter(negative_iterable=())], /, *, machine: str | None = None,
    fit: str | None = None, operation: Operation | None = None, ranks: int | None = None,
    nodes: int | None = None, ranks_per_node: int | None = None, tier: Tier | None = None,
    where: tuple[str, ...] = (), by: str | None = None, link: tuple[str, ...] = (),
    parameters: tuple[str, ...] = (), cases: Flag = False, plot: Path | None = None,
    json: Flag = False,
) -> None:  # fmt: skip
    """Judge forecasts by measurements that were not fitted.

    Parameters
    ----------
    files
        Measurements: records of this project, logs of OSU, IMB or nccl-tests, plain tables of
        collectives (op, ranks, nodes, bytes, time_s) or of rates (model, gpus, batch, images_per_s).
    machine
        The Machine that forecasts what brings none of its own: a name or a file.
    fit
        What of a table or a log is fitted: ranks<=N or every-other-size; the rest is forecast.
        Without it ranks<=8 where there are more, else every-other-size.
    operation
        What was measured, if a table or a log of nccl-tests does not say.
    ranks
        On how many ranks, if a file does not say.
    nodes
        On how many nodes, if a file does not say.
    ranks_per_node
        The same, as ranks on each node.
    tier
        The same, as where the ranks met: node (one node) or network (one rank on each node).
    where
        Only the rows of tables with this value, as system=NV_P100; may be repeated.
    by
        A column of tables of which each value is fitted apart, as system.
    link
        A link that was not measured, as network=6.8GB/s,2us; may be repeated.
    parameters
        The parameters of a model in a table of rates, as VGG16=138.4M; may be repeated.
    cases
        Print every case too.
    plot
        Draw forecast against measured here (PNG, SVG or PDF).
    json
        Print one JSON record instead of tables.
    """
    if fit is not None:
        parse_fit(fit)
    stated = Stated(
        fit, layout_of(ranks, nodes, ranks_per_node, tier), operation,
        tuple(where_of(each) for each in where), by, parse_links(link),
        {name: parse_count(count) for name, count in map(where_of, parameters)},
    )  # fmt: skip
    found = None if machine is None else find_machine(machine)
    evidence = [each for path in files for each in judged(path, found, stated)]
    if plot is not None:
        draw_evidence(plot, evidence)
    if json:
        print(json_format.dumps(record_of(evidence), allow_nan=False))
        return
    _print(evidence, shows_cases=cases)


def judged(path: Path, machine: Machine | None, stated: Stated = Stated()) -> list[Evidence]:
    """Return the evidence in ``path``: records of this project, or a table or a log of others.

    Raises:
        MachineError: it cannot be read, or nothing in it can be judged.
    """
    return evidence_of(path, machine) if is_records(path) else table_evidence(path, stated)


def record_of(evidence: Sequence[Evidence]) -> dict[str, Any]:
    """Return all that was judged, for machines."""
    return {
        "sources": [
            {"source": each.source, "split": each.split, "is_apart": each.is_apart, "is_relative": each.is_relative, "num_fitted": each.num_fitted,
             **asdict(verdict_of(each.cases)),
             "cases": [asdict(case) | {"error": case.error, "is_inside": case.is_inside} for case in each.cases]}
            for each in evidence
        ],
        "all": asdict(verdict_of(together)) if (together := counted(evidence)) else None,
    }  # fmt: skip


def evidence_table(evidence: Sequence[Evidence]) -> Table:
    """Return what the cases of each source come to, and all together that do not stand apart."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("source", "fitted", "cases", "median error", "one in ten above", "bias", "inside", "ranked right"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "source" else "right", no_wrap=True)
    for each in evidence:
        table.add_row(each.source, str(each.num_fitted or ""), *_cells(verdict_of(each.cases)))
    together = counted(evidence)
    if len(evidence) > 1 and together:
        table.add_row("all together", "", *_cells(verdict_of(together)))
    return table


def _print(evidence: Sequence[Evidence], *, shows_cases: bool) -> None:
    out = console(150)
    if shows_cases:
        for each in evidence:
            out.print(_cases(each))
    out.print(evidence_table(evidence))
    out.print(f"inside: in their {COVERAGE:.0%} interval; ranked right: of the pairs that do the same work and differ by more than the noise")  # fmt: skip
    if any(each.is_apart for each in evidence):
        out.print("oversubscribed: more ranks than cores, for which nothing was calibrated; not in all together")  # fmt: skip
    for each in evidence:
        if (rest := verdict_of(each.cases).median_error_of_rest) is not None:
            out.print(f"{each.source}: median error {rest:.1%} of what was not given: the messages, where compute is known")  # fmt: skip
    for split in dict.fromkeys(each.split for each in evidence):
        sources = ", ".join(each.source for each in evidence if each.split == split)
        out.print(f"split of {sources}: {split}")


def _cells(verdict: Verdict) -> list[str]:
    ranked = f"{verdict.num_ranked_right} of {verdict.num_ranked}" if verdict.num_ranked else ""
    return [
        str(verdict.count), f"{verdict.median_error:.1%}", f"{verdict.p90_error:.1%}", f"{verdict.bias:+.1%}",
        f"{verdict.coverage:.0%}", ranked,
    ]  # fmt: skip


def _cases(evidence: Evidence) -> Table:
    unit, scale = ("/ measured", 1.0) if evidence.is_relative else ("us", 1e6)
    table = Table(box=None, pad_edge=False, header_style="bold", title=evidence.source, title_justify="left")  # fmt: skip
    for heading in ("case", f"measured {unit}", f"forecast {unit}", "(90 %)", "error", ""):
        table.add_column(
            heading, justify="left" if heading in ("case", "") else "right", no_wrap=True
        )
    for case in evidence.cases:
        table.add_row(*_case(case, scale))
    return table


def _case(case: Judged, scale: float) -> list[str]:
    return [
        case.label, f"{case.measured_s * scale:.4g}", f"{case.forecast_s * scale:.4g}",
        f"{case.low_s * scale:.4g} to {case.high_s * scale:.4g}", f"{case.error:+.1%}",
        "" if case.is_inside else "outside",
    ]  # fmt: skip


if __name__ == "__main__":
    run_app(app)
