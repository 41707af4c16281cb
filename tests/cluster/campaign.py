"""Measure what forecasts are judged by: ``python -m tests.cluster.campaign --out DIR``.

Calibrates the links between two hosts, then trains every case of :mod:`tests.cluster.cases` on
eight ranks with padded compute, several times, and writes into DIR:

``links.json``, ``tiers.json``   Machines measured on two hosts with one and with two ranks each
``padded.json``                  the Machine whose compute the ops are padded to (exact, no links)
``runs.jsonl``                   the provenance and settings, then one record a case

so that a forecast of a case uses ``padded.json+links.json``, and of *two tiers* the other. The same
command goes on where it was stopped. The README has the fields of a record.
"""

import json
import os
import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.records import provenance
from calibration.machine import write_machine
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.workload import positive
from tests.cluster import rig
from tests.cluster.cases import Variant, variants
from tests.cluster.padded import EPOCHS, STEPS_IN_EPOCH, Case, measured, padded_machine
from tests.cluster.spec import Spec, parse_rate

app = make_app("python -m tests.cluster.campaign", "Measure trainings on a rig, case after case.")
Flag = Annotated[bool, Parameter(negative=())]

_NAME = "campaign"
_CALIBRATED = {"links.json": 1, "tiers.json": 2}  # ranks on each of two hosts
_CALIBRATION_TIMEOUT_S = 1200


@app.default
def main(
    *,
    out: Path,
    rate: str = "100mbit",
    multiple: float = 50.0,
    machine: str = "paper/measurements/machine-2core-epyc.json",
    repeats: int = 3,
    most_late: float = 0.01,
    only: str = "",
    list_cases: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> None:
    """Measure trainings on a rig, case after case.

    Parameters
    ----------
    out
        The folder for what is measured; made if it is not there.
    rate
        The rate of the links.
    multiple
        How many times their calibrated time padded ops take.
    machine
        The Machine whose times are padded.
    repeats
        How often each case is run, with another seed each time.
    most_late
        A case whose ranks were late by a larger share of their time is run again next time: the
        cores had too much else to do.
    only
        Only the cases whose names, or those of their variants, hold this text.
    list_cases
        Print the cases, and measure nothing.
    """
    positive("repeats", repeats)
    positive("multiple", multiple)
    chosen = [
        (variant, case)
        for variant in variants(parse_rate("rate", rate))
        for case in variant.cases
        if only in f"{variant.name}: {case.name}"
    ]
    if list_cases:
        for variant, case in chosen:
            console().print(f"{variant.name:12s} {case.name}")
        return
    if not chosen:
        raise UsageError(f"only must be part of a case's name, got {only!r}; --list prints them")
    if out.exists() and not out.is_dir():
        raise UsageError(f"out must be a folder, got {out}, which is a file")
    rig.check_able()
    out.mkdir(parents=True, exist_ok=True)
    padded = padded_machine(machine, multiple)
    settings = {"rate": rate, "multiple": multiple, "machine": padded.name, "steps_in_epoch": STEPS_IN_EPOCH, "epochs": EPOCHS}  # fmt: skip
    path = out / "runs.jsonl"
    done = _done(path, settings, most_late)
    write_machine(padded, out / "padded.json")
    for file, ranks in _CALIBRATED.items():
        if not (out / file).is_file():
            _calibrate(out / file, parse_rate("rate", rate), ranks)
    for variant in variants(parse_rate("rate", rate)):
        left = [case for other, case in chosen if other == variant and case.name not in done]
        if not left:
            continue
        with rig.cluster(variant.spec, _NAME):
            for case in left:
                runs = [measured(_NAME, case, padded, multiple, seed) for seed in range(repeats)]
                record = case_record(variant, case, runs)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record, allow_nan=False) + "\n")
                console(120).print(
                    f"{case.name}: {record['step_time_s'] * 1e3:.1f} ms, repeats "
                    f"{min(record['repeats_s']) * 1e3:.1f} to {max(record['repeats_s']) * 1e3:.1f}, "
                    f"late by {record['late_share']:.1%}"
                )


def case_record(variant: Variant, case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was run, and what it took: medians over ``runs``, the trainer's records."""

    def middle(key: str) -> float:
        return statistics.median(run[key] for run in runs)

    return {
        "kind": "case",
        "name": case.name,
        "variant": variant.name,
        "rig": variant.spec.record(),
        "net": case.net,
        "batch": case.batch,
        "strategy": case.strategy,
        "hosts": variant.spec.hosts,
        "ranks": case.ranks,
        "ranks_per_node": variant.spec.ranks_per_host,
        "window_ranks": runs[0]["window_ranks"],
        "mesh": asdict(case.mesh),
        "options": case.options,
        "slow": {str(rank): factor for rank, factor in case.slow},
        "noise": case.noise,
        "epoch_samples": case.num_train,
        "step_time_s": middle("step_time_s"),
        "step_time_p10_s": middle("step_time_p10_s"),
        "step_time_p90_s": middle("step_time_p90_s"),
        "repeats_s": [run["step_time_s"] for run in runs],
        "epoch_times_s": [[epoch["time_s"] for epoch in run["epochs"]] for run in runs],
        "timed_step": runs[0]["timed_step"],
        "sent_bytes_per_epoch": runs[0]["sent_bytes_per_epoch"],
        "late_share": max(run["padded"]["late_share"] for run in runs),
        "load_average": os.getloadavg()[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _done(path: Path, settings: dict[str, Any], most_late: float) -> set[str]:
    """Return the names of the cases in ``path``, which is begun if it is not there.

    Those that were late by more than ``most_late`` are taken out of it.

    Raises:
        UsageError: it was measured with other ``settings``, or is damaged.
    """
    if not path.exists():
        head = provenance("mpi4py", "mpich") | settings | {"mpi_environment": rig.MPI_ENVIRONMENT}
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return set()
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)  # a kill may cut the last one
    try:
        head, *records = map(json.loads, lines)
        differing = [name for name, value in settings.items() if head[name] != value]
        good = [record["late_share"] <= most_late for record in records]
        names = {record["name"] for record in compress(records, good)}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"out must be of a campaign, got {path}, which is damaged: {error}") from error  # fmt: skip
    if differing:
        name = differing[0]
        raise UsageError(f"{name} must be that of {path}, {head[name]}, got {settings[name]}; use another out")  # fmt: skip
    kept = "".join(compress(lines, [True, *good]))
    if kept != text:
        replaced = path.with_suffix(".part")
        replaced.write_text(kept, encoding="utf-8")
        replaced.replace(path)
    return names


def _calibrate(path: Path, bits_per_s: int, ranks_per_host: int) -> None:
    """Measure the links between two hosts, and inside them if ``ranks_per_host`` is 2."""
    samples = path.with_suffix(".jsonl")
    command = ["python", "-m", "calibration", "--quick", "--name", path.stem, "--out", str(path), "--samples", str(samples)]  # fmt: skip
    with rig.cluster(Spec(2, bits_per_s, ranks_per_host), _NAME):
        done = rig.run(_NAME, command, is_captured=True, timeout_s=_CALIBRATION_TIMEOUT_S)
    if done.returncode:
        raise rig.RigError(f"calibration on two hosts failed: {done.stderr.strip()[-500:]}")
    console(120).print(f"calibrated {path.name} on two hosts, {ranks_per_host} ranks each")


if __name__ == "__main__":
    rig.end_in_order()
    run_app(app)
