"""A kill at any moment of a write leaves the last good checkpoint, and nothing else that matters."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import run_process
from tests.exec.runtime.checkpoint.killed_writer import KILLS

PROGRAM = "tests.exec.runtime.checkpoint.killed_writer"


def outcomes_of(how: str, ranks: int, keep: int, directory: Path) -> list[dict]:  # type: ignore[type-arg]  # JSON
    """Return what the program printed, once it is checked that every outcome is right."""
    done = run_process([sys.executable, "-m", PROGRAM, how, str(ranks), str(keep), str(directory)])
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = json.loads(done.stdout)
    for outcome in outcomes:
        assert outcome["is_right"], outcome
        assert outcome["step"] in (outcome["known"], outcome["known"] + 1), outcome
        # An unfinished checkpoint is passed over without a word, and the next write cleans it.
        assert outcome["refused"] == [], outcome
        next_step, folders = outcome["step"] + 1, {Path(n).parts[0] for n in outcome["next_names"]}
        assert max(folders) == f"step-{next_step:09d}", outcome
        assert len(folders) == keep, outcome
        assert len(outcome["next_names"]) == keep * (1 + ranks + 1), outcome
    return outcomes


@pytest.mark.parametrize("ranks, keep", [(1, 1), (3, 2)])
def test_a_kill_before_any_change_of_the_disk_leaves_a_good_checkpoint(
    tmp_path: Path, ranks: int, keep: int
) -> None:
    outcomes = outcomes_of("each", ranks, keep, tmp_path)
    shards = [f"rank-{rank:05d}.safetensors" for rank in range(ranks)]
    files = [*shards, "manifest.json"]
    changes = [f"{do} {f}" for do in ("write", "sync", "rename", "sync the folder of") for f in files]  # fmt: skip
    oldest = f"step-{3 - keep:09d}"
    changes += ["make step-000000003", f"remove the manifest of {oldest}", f"remove {oldest}"]
    *killed, last = outcomes
    assert not last["was_killed"]
    # Threads take turns as they like, so a change of another rank may be met twice or never.
    assert len(killed) == len(changes)
    assert {outcome["last"] for outcome in killed} <= set(changes)
    if ranks == 1:
        assert {outcome["last"] for outcome in killed} == set(changes)
    after = [outcome["step"] == 3 for outcome in outcomes]
    renamed = [outcome["last"] for outcome in outcomes].index("rename manifest.json")
    assert after == [False] * (renamed + 1) + [True] * (len(outcomes) - renamed - 1)


@pytest.mark.parametrize("ranks, keep", [(1, 2), (2, 1)])
def test_20_kills_at_random_moments_each_leave_the_last_good_checkpoint(
    tmp_path: Path, ranks: int, keep: int
) -> None:
    outcomes = outcomes_of("whenever", ranks, keep, tmp_path)
    assert [outcome["was_killed"] for outcome in outcomes] == [True] * KILLS
    assert len({outcome["last"].split()[0] for outcome in outcomes}) > 1


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
def test_3_trainings_killed_at_random_moments_end_with_the_same_bits(tmp_path: Path) -> None:
    record = tmp_path / "kills.jsonl"
    # The earliest moment of this seed is at 0.42 of a training, when all ranks have long begun.
    options = ("--kills", "3", "--epochs", "5", "--out", str(record))
    done = run_process([sys.executable, "benchmarks/kill_training.py", *options], timeout_s=280)
    assert (done.returncode, done.stderr) == (0, "")
    provenance, run, *kills = map(json.loads, record.read_text().splitlines())
    assert (provenance["kind"], run["ranks"]) == ("provenance", 2)
    assert [kill["is_equal"] for kill in kills] == [True] * 3
