"""Strong scaling: which cases there are, and one quick run of them on one and two ranks."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.scaling_cases import COUNTS, cases, why_not
from benchmarks.scaling_table import scaling_table
from exec.plan.strategy import Strategy
from exec.train import app as trainer
from paper.results import MACHINE_FILE, read_records
from tests.conftest import ROOT, run_process

SCRIPT = [sys.executable, "benchmarks/scaling.py", "--quick"]
SHIPPED = ROOT / "calibration" / "machines"


def test_every_case_trains_one_rank_s_batch_on_ranks_that_its_mesh_fills() -> None:
    found = list(cases())
    for case in found:
        assert case.ranks in COUNTS
        assert case.mesh.world_size == case.ranks
        assert any(other.ranks == 1 and (other.net, other.batch) == (case.net, case.batch) for other in found)  # fmt: skip
    assert len(set(found)) == len(found)
    assert {case.strategy for case in found} == {Strategy.SERIAL, Strategy.DATA, Strategy.PIPELINE, Strategy.TENSOR, Strategy.HYBRID}  # fmt: skip


def test_the_trainer_knows_the_options_of_every_case() -> None:
    for case in cases():
        trainer.parse_args(case.arguments(""), exit_on_error=False, print_error=False)


def test_a_case_is_left_out_only_for_want_of_cores_or_of_layers() -> None:
    for case in cases():
        on_one, on_many = why_not(case, 1), why_not(case, max(COUNTS))
        assert (on_one is None) == (case.ranks == 1)
        if on_many is None:
            assert "cores" in (why_not(case, case.ranks - 1) or "") or case.ranks == 1
        else:
            assert "must be at most" in on_many


@pytest.mark.mpi
def test_a_quick_run_forecasts_and_measures_the_same_cases(tmp_path: Path, mpiexec: str) -> None:
    out = tmp_path / "scaling.jsonl"
    # On many cores this forecasts and runs more ranks too.
    command = [*SCRIPT, "--strategies", "data", "--machine", str(MACHINE_FILE), "--out", str(out)]
    done = run_process(command, timeout_s=120, PYTHONPATH=".")
    assert done.returncode == 0, done.stderr
    head, records = read_records(out)
    assert head["cores"] >= 1
    assert records[0]["machine"]["name"] == "measured"
    rows = [each for each in records if each["kind"] == "scaling"]
    assert {(row["strategy"], row["ranks"]) for row in rows} <= {("serial", 1), ("data", 2), ("data", 4), ("data", 8), ("data", 16)}  # fmt: skip
    for row in rows:
        assert row["was_seen"] == (row["ranks"] <= 2)
        assert row["forecast_low_s"] < row["forecast_s"] < row["forecast_high_s"]
        assert row["is_inside"] == (row["forecast_low_s"] <= row["measured_s"] <= row["forecast_high_s"])  # fmt: skip
        assert row["speedup"]["median"] == pytest.approx(rows[0]["times_s"][0] / row["times_s"][0], rel=1e-12)  # fmt: skip
    assert f"{rows[0]['measured_s'] * 1e3:.3g}" in done.stdout


@pytest.mark.mpi
def test_a_machine_that_has_seen_more_ranks_may_not_forecast_them(mpiexec: str) -> None:
    seen = next(path for path in sorted(SHIPPED.glob("*.json"))
                if any(link["allreduce_ranks"]["high"] > 2 for link in json.loads(path.read_text("utf-8"))["links"].values()))  # fmt: skip
    done = run_process([*SCRIPT, "--machine", str(seen)], PYTHONPATH=".")
    assert done.returncode == 2
    assert "machine must be calibrated on at most 2 ranks, got" in done.stderr


def test_the_table_tells_what_was_skipped_once_for_each_reason() -> None:
    head = {"cpu": "a CPU", "cores": 2, "physical_cores": 2, "blas": "b", "load_average": 0.1, "bound": {}}  # fmt: skip
    skipped = [
        {"net": case.net, "strategy": case.strategy, "ranks": case.ranks, "reason": why_not(case, 2)}
        for case in cases((("8-4-4", 32),), 0) if case.ranks > 2 and case.strategy is Strategy.DATA
    ]  # fmt: skip
    told = [text for text in scaling_table(head, [], skipped) if isinstance(text, str)]
    assert told[1:] == ["skipped, ranks must be at most the 2 cores: 8-4-4 data on 4, 8, 16"]
    assert any(
        "warning" in str(text) for text in scaling_table(head | {"load_average": 2.0}, [], [])
    )
