"""A training with ``--monitor``: the same training, and a record of what it used."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.conftest import Finished, Launch, run_process

SHORT = (
    "--net",
    "128-12-26",
    "--num-train",
    "530",
    "--num-test",
    "104",
    "--epochs",
    "2",
    "--algorithm",
    "library",
)
NUM_PARAMETERS = 128 * 12 + 12 + 12 * 26 + 26
NUM_STEPS = 17  # an epoch: 16 batches of 32 and one of 18


def train(*arguments: object) -> Finished:
    """Train on threads to the end."""
    return run_process([sys.executable, "-m", "exec.train", *SHORT, *map(str, arguments)])


def record_of(ended: Finished) -> dict[str, Any]:
    """Return the JSON record of a run that went well."""
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def assert_used(record: dict[str, Any], ranks: int) -> None:
    """Assert what must hold of any monitored training with data parallelism."""
    # Each step is one all-reduce, which is counted as 2 (p - 1) / p of the gradient, rounded up;
    # testing and saving gather the weights by all-reduces as large.
    allreduce = ranks * -(-2 * (ranks - 1) * 4 * NUM_PARAMETERS // ranks)
    assert record["sent_bytes_per_epoch"] == NUM_STEPS * allreduce
    gathered, rest = divmod(record["sent_bytes"] - 2 * NUM_STEPS * allreduce, allreduce)
    assert rest == 0
    assert 2 <= gathered <= 4
    used = record["utilisation"]
    assert [rank["rank"] for rank in used["ranks"]] == list(range(ranks))
    run_s = sum(epoch["time_s"] for epoch in record["epochs"])
    for rank in used["ranks"]:
        lists = [rank[key] for key in ("time_s", "cpu", "memory_bytes", "sent_bytes")]
        assert len({len(values) for values in lists}) == 1
        times_s = rank["time_s"]
        assert times_s == sorted(set(times_s))
        assert times_s[0] >= 0
        assert times_s[-1] - times_s[0] >= run_s
        assert rank["sent_bytes"] == sorted(rank["sent_bytes"])
        assert rank["sent_bytes"][0] == 0
        assert rank["sent_bytes"][-1] == rank["total_sent_bytes"] == record["sent_bytes"] // ranks
        assert min(rank["cpu"][1:]) >= 0
        assert rank["mean_cpu"] > 0
        assert rank["peak_memory_bytes"] > record["memory_bytes"]


def test_monitored_training_has_the_same_bits_and_a_trace_and_a_picture(tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain.safetensors", tmp_path / "watched.safetensors"
    trace, picture = tmp_path / "trace.json", tmp_path / "usage.png"
    before = record_of(train("--ranks", 2, "--save", plain, "--json"))
    after = record_of(train(
        "--ranks", 2, "--save", watched, "--json", "--monitor", "--monitor-plot", picture,
        "--trace", trace,
    ))  # fmt: skip
    weights, expected = load_file(watched), load_file(plain)
    assert sorted(weights) == sorted(expected)
    for name, tensor in expected.items():
        assert weights[name].tobytes() == tensor.tobytes()
    assert before["utilisation"] is None
    assert before["sent_bytes"] == after["sent_bytes"]
    assert_used(after, 2)
    assert picture.read_bytes().startswith(b"\x89PNG")

    counted: dict[tuple[int, str], list[float]] = defaultdict(list)
    span_ends: list[float] = []
    for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]:
        if event["ph"] == "C":
            (value,) = event["args"].values()
            assert value >= 0
            counted[event["pid"], event["name"]].append(event["ts"])
        elif event["ph"] == "X":
            span_ends += [event["ts"], event["ts"] + event["dur"]]
    assert set(counted) == {(rank, name) for rank in (0, 1) for name in ("CPU", "memory", "sent")}
    times_s = [rank["time_s"] for rank in after["utilisation"]["ranks"]]
    run_us = 1e6 * (max(map(max, times_s)) - min(map(min, times_s)))
    for times in counted.values():
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= run_us + 1  # both are rounded to a microsecond
    assert min(min(times) for times in counted.values()) == 0 <= min(span_ends)
    assert max(span_ends) <= run_us + 1


@pytest.mark.mpi
def test_mpi_ranks_record_what_each_used(launch: Launch) -> None:
    record = record_of(launch(3, "exec.train", *SHORT, "--monitor", "--json"))
    assert_used(record, 3)
    assert not record["utilisation"]["ranks_share_memory"]


def test_text_tells_what_was_used_only_if_asked() -> None:
    assert "used: CPU" in train("--monitor").stdout
    assert "used: CPU" not in train().stdout


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/usage.png", "monitor-plot must be a file in a folder that exists"),
        ("usage.txt", "monitor-plot must end in .png, .svg, .pdf, got usage.txt"),
    ],
)
def test_picture_that_cannot_be_is_refused_before_training(path: str, message: str) -> None:
    ended = train("--monitor-plot", path)
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert message in ended.stderr
    assert ended.stdout == ""
