"""Checkpoints of a training, as a user meets them on the command line."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from exec.errors import UsageError
from exec.plan.strategy import Strategy
from exec.runtime.checkpoint.training import CheckpointOptions
from exec.train import app
from tests.conftest import Finished, run_here

SMALL = ("--net", "128-12-26", "--num-train", "320", "--num-test", "80")


def train(*arguments: object) -> Finished:
    """Run the command line to its end, in this process."""
    return run_here(app, (*SMALL, *arguments))


def weights(path: Path) -> dict[str, bytes]:
    """Return the weights in ``path`` by name."""
    return {name: array.tobytes() for name, array in load_file(path).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoints, weights, trace and record of a finished training."""
    folder = tmp_path_factory.mktemp("whole")
    done = train("--ranks", 2, "--epochs", 2, "--checkpoint", folder / "kept", "--checkpoint-every", 4,
                 "--keep", 3, "--resume", "--save", folder / "weights", "--trace", folder / "trace",
                 "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"no finished checkpoint in {folder / 'kept'}: starting anew" in done.stderr
    (folder / "record").write_text(done.stdout)
    return folder


@pytest.fixture
def kept(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoints, of steps 12, 16 and 20."""
    return Path(shutil.copytree(whole / "kept", tmp_path / "kept"))


def test_the_record_and_the_trace_say_what_checkpoints_cost(whole: Path) -> None:
    # 320 samples in batches of 32 are ten steps an epoch; 4, 8, 12, 16, and 20 at the end.
    record = json.loads((whole / "record").read_text())
    assert record["resumed_from_step"] is None
    assert record["checkpoint"]["count"] == 5
    shard = (whole / "kept" / "step-000000020" / "rank-00000.safetensors").stat().st_size
    other = (whole / "kept" / "step-000000020" / "rank-00001.safetensors").stat().st_size
    assert record["checkpoint"]["nbytes"] == pytest.approx(shard + other, abs=8)  # digits of steps
    assert abs(other - shard) < 16  # replicas that share a window save a slice each
    assert record["checkpoint"]["time_s"] > 0
    events = json.loads((whole / "trace").read_text())["traceEvents"]
    assert sum(event["name"] == "save" for event in events) == 2 * 5
    assert sorted(path.name for path in (whole / "kept").iterdir()) == [
        "step-000000012", "step-000000016", "step-000000020"
    ]  # fmt: skip


def test_a_damaged_checkpoint_is_refused_in_one_line_and_the_previous_one_used(
    whole: Path, kept: Path, tmp_path: Path
) -> None:
    (kept / "step-000000020" / "rank-00000.safetensors").unlink()
    (kept / "step-000000016" / "manifest.json").write_text("{")
    done = train("--ranks", 2, "--epochs", 2, "--checkpoint", kept, "--resume", "--save", tmp_path / "w")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    refused = [line for line in lines if line.startswith("refused: ")]
    assert "step-000000020/rank-00000.safetensors cannot be read" in refused[0]
    assert "step-000000016/manifest.json must be a whole manifest" in refused[1]
    assert f"resumed from {kept / 'step-000000012'}, after 64 samples of epoch 2" in lines
    assert weights(tmp_path / "w") == weights(whole / "weights")


def test_a_finished_training_says_so_and_has_the_same_results(
    whole: Path, kept: Path, tmp_path: Path
) -> None:
    arguments = ("--ranks", 2, "--epochs", 2, "--checkpoint", kept, "--resume")
    done = train(*arguments, "--save", tmp_path / "w", "--json")
    assert done.returncode == 0, done.stderr
    assert "finished: 2 epochs are done" in done.stderr
    before, after = json.loads((whole / "record").read_text()), json.loads(done.stdout)
    assert after["epochs"] == before["epochs"]
    assert (after["resumed_from_step"], after["checkpoint"]) == (20, None)
    assert weights(tmp_path / "w") == weights(whole / "weights")


def test_more_epochs_and_another_plan_go_on(kept: Path) -> None:
    done = train("--ranks", 3, "--strategy", "tensor", "--epochs", 3, "--checkpoint", kept, "--resume", "--checkpoint-every", "1h", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "at the start of epoch 3, under another plan" in done.stderr
    record = json.loads(done.stdout)
    assert [each["epoch"] for each in record["epochs"]] == [1, 2, 3]
    assert record["epochs"][2]["loss"] < record["epochs"][1]["loss"]
    assert record["checkpoint"]["count"] == 2  # after the first eight steps, and at the end


REFUSALS = {
    "another network": (("--net", "128-13-26"), "net must be 128-12-26, that of the checkpoint"),
    "another seed": (("--seed", 1), "seed must be 0, that of the checkpoint"),
    "other data": (("--data", "noise"), "data must be drawn of 320 samples, sha256"),
    "momentum": (("--momentum", "0.5"), "momentum must be 0, that of the checkpoint"),
    "an interval of no kind": (("--checkpoint-every", "5x"), "checkpoint-every must be steps such as 500, a time"),
    "none kept": (("--keep", 0), "keep must be at least 1, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("options, message", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_resumed_is_one_message_and_status_2(
    kept: Path, options: tuple[object, ...], message: str
) -> None:
    base = [each for each in SMALL if options[0] != "--net" or each not in SMALL[:2]]
    done = run_here(app, (*base, "--ranks", 2, "--checkpoint", kept, "--resume", *options))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_holds_checkpoints_is_refused_without_resume(kept: Path) -> None:
    done = train("--ranks", 2, "--checkpoint", kept)
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoints must go to a folder that holds none, got")


def test_options_of_checkpoints_need_a_folder() -> None:
    for option in (("--resume",), ("--keep", 3), ("--checkpoint-every", "epoch")):
        done = train(*option)
        assert done.returncode == 2
        assert "checkpoint must name a folder" in done.stderr


@pytest.mark.parametrize("text", ["0", "0s", "-1", "1.5", "5 m", "m", "", "epochs", "1e3"])
def test_intervals_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^checkpoint-every must be"):
        CheckpointOptions(Path("x"), text).check(Strategy.DATA)


def test_ranks_that_take_tickets_cannot_meet_by_the_clock() -> None:
    with pytest.raises(UsageError, match=r"must be steps or epoch for async_server.*got 30s"):
        CheckpointOptions(Path("x"), "30s").check(Strategy.ASYNC_SERVER)
    CheckpointOptions(Path("x"), "30s").check(Strategy.SERVER)
    assert CheckpointOptions(Path("x"), "30").pause_every(Strategy.ASYNC_SERVER) == 30
    assert CheckpointOptions(Path("x"), "30").pause_every(Strategy.SERVER) == 0


def test_a_file_is_no_folder_for_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"^checkpoint must be a folder"):
        CheckpointOptions(tmp_path / "file").check(Strategy.DATA)
