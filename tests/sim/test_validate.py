"""``python -m sim.validate``: measurements judged, from the files that the project commits."""

import json
from pathlib import Path

import pytest

from sim.validate import app
from tests.conftest import ROOT, Finished, run_here

MEASURED = ROOT / "paper" / "measurements"
MACHINE = MEASURED / "machine-2core-epyc.json"
CHECKS = MEASURED / "check-2core-epyc.jsonl"


def validate(*arguments: object) -> Finished:
    """Run the command line to its end, in this process."""
    return run_here(app, arguments)


def test_committed_checks_are_forecast_anew_and_judged(tmp_path: Path) -> None:
    plot = tmp_path / "evidence.svg"
    ended = validate(CHECKS, "--machine", MACHINE, "--json", "--plot", plot)
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    source = record["sources"][0]
    assert source["source"] == CHECKS.name
    assert "none of these networks is on the ladder" in source["split"]
    written = [json.loads(line) for line in CHECKS.read_text().splitlines()[1:]]
    assert [case["measured_s"] for case in source["cases"]] == [each["measured_s"] for each in written]  # fmt: skip
    errors = sorted(abs(case["forecast_s"] / case["measured_s"] - 1) for case in source["cases"])
    assert source["median_error"] == pytest.approx(errors[len(errors) // 2], rel=1e-9)
    assert source["count"] == record["all"]["count"] == len(written)
    assert plot.read_text().startswith("<?xml")


def test_every_case_is_shown_if_asked_for() -> None:
    ended = validate(CHECKS, "--machine", MACHINE, "--cases")
    assert ended.returncode == 0, ended.stderr
    assert "128-50-26 32 serial 1x1x1" in ended.stdout
    assert "split of" in ended.stdout


def test_a_table_and_records_are_judged_together(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{p},{n},{p * 1e-5 + n / 1e9!r}" for p in (2, 4, 8, 16) for n in (64, 1024, 4096, 1 << 20)]  # fmt: skip
    table.write_text("ranks,bytes,time_s\n" + "\n".join(rows))
    ended = validate(table, MEASURED / "held-out.jsonl", "--operation", "all_reduce", "--tier", "network", "--fit", "ranks<=4", "--json")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    first = record["sources"][0]
    assert (first["split"], first["num_fitted"], first["count"]) == ("fitted on at most 4 ranks", 8, 8)  # fmt: skip
    assert {case["extrapolation"] for case in first["cases"]} == {2.0, 4.0}
    assert record["all"]["count"] == sum(each["count"] for each in record["sources"])


BAD = {
    "no file": ((), "FILES requires an argument"),
    "no machine": ((CHECKS,), "--machine"),
    "missing": (("nowhere.jsonl", "--machine", MACHINE), "cannot be read"),
    "not a measurement": ((ROOT / "pyproject.toml", "--machine", MACHINE), "must have a table"),
    "a Machine": ((MACHINE, "--machine", MACHINE), "must be JSON of nccl-tests"),
    "nothing to judge": ((MEASURED / "kill-search.jsonl", "--machine", MACHINE), "must have records"),
    "split": ((CHECKS, "--fit", "half"), "fit must be ranks<=N"),
    "two layouts": ((CHECKS, "--tier", "node", "--nodes", "2"), "must not be given together"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_status_2(name: str) -> None:
    arguments, message = BAD[name]
    ended = validate(*arguments)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
