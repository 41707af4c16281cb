"""Make the figures and the report: ``python -m paper``."""

import json
from datetime import UTC, datetime
from pathlib import Path

import typst

from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.plan.options import PlanOptions
from paper.evidence import committed_evidence, evidence_numbers
from paper.evidence_figure import evidence_figure
from paper.figures import agreement_figure, schemes_figure, speedup_figure
from paper.readme import write_readme
from paper.results import (
    CHECK_FILE,
    COMPARED,
    MOST_NODES,
    numbers,
    read_records,
    scalings,
    setting_of,
)
from paper.scaling import scaling_numbers
from paper.scaling_figure import scaling_figure
from paper.speed import speed_numbers
from paper.speed_figure import growth_figure
from paper.strategies import strategy_numbers
from paper.strategies_figure import strategies_figure
from sim.compare import SERVING, curves, schemes

app = make_app("python -m paper", "Make the figures and the report from committed measurements.")

_HERE = Path(__file__).parent


@app.default
def make_paper(*, out: Path = _HERE / "build", readme: Path | None = None) -> None:
    """Make the figures (SVG and PNG) and the report (PDF) from committed measurements.

    Parameters
    ----------
    out
        The folder to put them into.
    readme
        Write the blocks of numbers in this README anew, too.
    """
    if readme is not None and not readme.is_file():
        raise UsageError(f"readme must be a file, got {readme}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out must be a folder that can be written, got {out}: {error}") from error
    _, checks = read_records(CHECK_FILE)
    found = scalings(checks)
    for suffix in ("svg", "png"):
        speedup_figure(out / f"speedup.{suffix}", found)
    results = numbers()
    for suffix in ("svg", "png"):
        agreement_figure(out / f"agreement.{suffix}", results["checks"])
    results["strategies"] = strategy_numbers()
    for suffix in ("svg", "png"):
        strategies_figure(out / f"strategies.{suffix}", results["strategies"])
    evidence, silent = committed_evidence()
    results["evidence"] = evidence_numbers(evidence) | {"not_judged": silent}
    for suffix in ("svg", "png"):
        evidence_figure(out / f"evidence.{suffix}", evidence)
    results["node"] = scaling_numbers()
    if not results["node"]["is_pending"]:
        for suffix in ("svg", "png"):
            scaling_figure(out / f"scaling.{suffix}", results["node"]["rows"])
    results["speed"] = speed_numbers()
    simulator = results["speed"]["tables"]["simulator"]["rows"]
    if simulator:
        for suffix in ("svg", "png"):
            growth_figure(out / f"growth.{suffix}", simulator, results["speed"]["peers"]["rows"])
    setting = setting_of(*COMPARED[-1])
    times = curves(setting, list(schemes(PlanOptions(), SERVING)), MOST_NODES)
    serial_s = results["comparisons"][-1]["serial_epoch_s"]
    for suffix in ("svg", "png"):
        title = "{}, batch {}, Ethernet".format(*COMPARED[-1])
        schemes_figure(out / f"schemes.{suffix}", times, serial_s, title, results["schemes"]["rows"])  # fmt: skip
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (out / "report.typ").write_text((_HERE / "report.typ").read_text(encoding="utf-8"), encoding="utf-8")  # fmt: skip
    made = datetime.fromisoformat(results["provenance"]["date"]).astimezone(UTC)
    pdf, warnings = typst.compile_with_warnings(str(out / "report.typ"), timestamp=int(made.timestamp()))  # fmt: skip
    if warnings:
        raise UsageError(f"report.typ: {warnings[0].message}")
    (out / "report.pdf").write_bytes(pdf)
    if readme is not None:
        write_readme(readme, results)
    console().print(
        f"report.pdf, and evidence, speedup, agreement, schemes and strategies as .svg and .png, are in {out}"
    )


if __name__ == "__main__":
    run_app(app)
