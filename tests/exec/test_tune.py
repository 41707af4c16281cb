"""The command line, as a user meets it: ``python -m exec.tune``."""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from exec.search.journal import read_journal
from exec.tune import app
from tests.conftest import (
    ROOT,
    Finished,
    Launch,
    LaunchEach,
    clean_environment,
    run_here,
    run_process,
)
from tests.exec.test_train import assert_one_error

SMALL = ("--num-train", "400", "--num-test", "100", "--epochs", "2")
GRID = (*SMALL, "--layers", "1,2", "--units", "12", "--lr", "0.5,1,1e300")
RANDOM = (*SMALL, "--sampler", "random", "--units", "8:30", "--lr", "0.2:2")


def tune(*arguments: object) -> Finished:
    """Run the command line to its end, in this process."""
    return run_here(app, arguments)


def tune_command(*arguments: object) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "exec.tune", *map(str, arguments)]


def search(out: Path, *arguments: object) -> dict[str, Any]:
    """Return the record of a search that went well."""
    return record_of(tune(*arguments, "--out", out, "--json"))


def record_of(ended: Finished) -> dict[str, Any]:
    """Return the JSON record of a search."""
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def came_to(record: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return what must not depend on when and where the trials ran."""
    return [
        (trial["index"], tuple(trial["config"].items()), trial["state"], trial["accuracy"], trial["loss"])
        for trial in record["trials"]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a finished grid search: its folder and its record."""
    out = tmp_path_factory.mktemp("grid")
    return out, search(out, *GRID)


def test_search_tries_each_point_and_saves_the_best(grid: tuple[Path, dict[str, Any]]) -> None:
    out, record = grid
    assert [trial["index"] for trial in record["trials"]] == list(range(6))
    trained = [trial for trial in record["trials"] if trial["state"] == "done"]
    best = json.loads((out / "best.json").read_text(encoding="utf-8"))
    assert best["trial"]["accuracy"] == max(trial["accuracy"] for trial in trained)
    assert best["trial"]["index"] == record["best"]
    assert 0 <= best["test_accuracy"] <= 1
    weights = load_file(out / "best.safetensors")
    assert weights["linear0.weight"].shape == (12, 128)
    for trial in trained:
        assert [epoch["epoch"] for epoch in trial["epochs"]] == [1, 2]
        assert trial["epochs"][-1]["accuracy"] == trial["accuracy"]
        assert 0 < trial["train_time_s"] < trial["ended_s"] - trial["started_s"]


def test_trial_that_diverges_has_failed_and_the_search_goes_on(
    grid: tuple[Path, dict[str, Any]],
) -> None:
    failed = [trial for trial in grid[1]["trials"] if trial["config"]["learning_rate"] == 1e300]
    assert [trial["index"] for trial in failed] == [2, 5]
    for trial in failed:
        assert trial["state"] == "failed"
        assert trial["accuracy"] is None
        assert trial["reason"].startswith("the loss of epoch 1 is ")


def test_finished_search_has_nothing_left_and_may_be_given_more(tmp_path: Path) -> None:
    first = search(tmp_path, *RANDOM, "--trials", 3)
    before = (tmp_path / "trials.jsonl").read_bytes()
    assert came_to(search(tmp_path, *RANDOM, "--trials", 3)) == came_to(first)
    assert (tmp_path / "trials.jsonl").read_bytes() == before
    more = search(tmp_path, *RANDOM, "--trials", 6)
    assert came_to(more)[:3] == came_to(first)
    assert (tmp_path / "trials.jsonl").read_bytes().startswith(before)
    assert came_to(more) == came_to(search(tmp_path / "at once", *RANDOM, "--trials", 6))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [4])
def test_mpi_finds_what_one_process_finds(
    tmp_path: Path, launch: Launch, grid: tuple[Path, dict[str, Any]], ranks: int
) -> None:
    ended = launch(ranks, "exec.tune", *GRID, "--out", str(tmp_path), "--json")
    record = record_of(ended)
    assert came_to(record) == came_to(grid[1])
    assert {trial["group"] for trial in record["trials"]} <= set(range(ranks - 1))
    assert record["checks"][0]["makespan"]["num_groups"] == ranks - 1
    own, other = (load_file(folder / "best.safetensors") for folder in (tmp_path, grid[0]))
    assert {name: own[name].tobytes() for name in own} == {name: other[name].tobytes() for name in other}  # fmt: skip


@pytest.mark.mpi
def test_trial_may_be_trained_by_a_group(
    tmp_path: Path, launch: Launch, grid: tuple[Path, dict[str, Any]]
) -> None:
    pair = ("--ranks-per-trial", "2", "--json")
    threads = record_of(tune(*GRID, "--out", tmp_path / "threads", *pair))
    processes = record_of(launch(5, "exec.tune", *GRID, "--out", str(tmp_path / "mpi"), *pair))
    for record in (threads, processes):
        for trial, alone in zip(record["trials"], grid[1]["trials"], strict=True):
            assert trial["state"] == alone["state"]
            if alone["loss"] is not None:
                # 20 steps, each of which reorders sums as in test_train, where 34 came to 1.1e-6.
                assert trial["loss"] == pytest.approx(alone["loss"], rel=0, abs=2e-6)
                assert trial["accuracy"] == pytest.approx(alone["accuracy"], rel=0, abs=2 / 80)


def test_optuna_s_sampler_goes_on_as_it_would_have(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs the tune extra")
    options = (*SMALL, "--sampler", "tpe", "--units", "8:30", "--lr", "0.2:2")
    whole = search(tmp_path / "whole", *options, "--trials", 13)
    search(tmp_path / "parts", *options, "--trials", 11)
    assert came_to(search(tmp_path / "parts", *options, "--trials", 13)) == came_to(whole)


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start ``command`` as the leader of a process group."""
    return subprocess.Popen(command, cwd=ROOT, env=clean_environment(), text=True,
                            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def run_with_kills(command: list[str], moments_s: list[float]) -> int:
    """Run ``command`` again and again, each run killed that long after its first line; return the kills.

    The last run is left to end.
    """
    num_kills = 0
    for moment_s in moments_s:
        with start(command) as process:
            assert process.stdout is not None
            assert "trials" in process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment_s)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                num_kills += 1
    ended = run_process(command)
    assert ended.returncode == 0, ended.stderr
    return num_kills


# Trials of some tens of milliseconds, so that a kill falls into one.
KILLED = (*SMALL[:4], "--epochs", "40", "--layers", "1,2,3", "--units", "12,40", "--lr", "0.5,1")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the record of the search that nobody kills."""
    return search(tmp_path_factory.mktemp("unkilled"), *KILLED)


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.mpi)])
def test_killed_search_goes_on_with_nothing_lost_or_run_twice(
    tmp_path: Path, unkilled: dict[str, Any], ranks: int, request: pytest.FixtureRequest
) -> None:
    launcher = [request.getfixturevalue("mpiexec"), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, *tune_command(*KILLED, "--out", tmp_path)]
    draw = random.Random(ranks)
    kills = run_with_kills(command, [draw.uniform(0, 0.3 / ranks) for _ in range(2)])
    assert kills >= 1
    contents = read_journal(tmp_path / "trials.jsonl")  # which refuses a trial that is there twice
    assert sorted(contents.trials) == list(range(12))
    assert len(contents.sessions) >= 2
    assert came_to(search(tmp_path, *KILLED)) == came_to(unkilled)
    best = json.loads((tmp_path / "best.json").read_text(encoding="utf-8"))
    assert best["trial"]["index"] == unkilled["best"]


def test_forecast_is_printed_for_ranks_that_nobody_has_tried(
    grid: tuple[Path, dict[str, Any]],
) -> None:
    ended = tune("forecast", grid[0], "--ranks", "1,4,16,64", "--json")
    record = record_of(ended)
    spans = {row["ranks"]: row["makespan"] for row in record["makespan"]}
    assert {ranks: span["num_groups"] for ranks, span in spans.items()} == {1: 1, 4: 3, 16: 15, 64: 63}  # fmt: skip
    times = [trial["ended_s"] - trial["started_s"] for trial in grid[1]["trials"]]
    assert spans[64]["time_s"] == pytest.approx(max(times), rel=1e-9)
    assert spans[1]["time_s"] == pytest.approx(record["checks"][0]["measured_s"], rel=1e-9)
    text = tune("forecast", grid[0], "--ranks", "4")
    assert "this search: 6 trials on 1 rank took" in text.stdout


def test_plot_is_drawn(tmp_path: Path, grid: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("matplotlib", reason="needs the plot extra")
    path = tmp_path / "search.svg"
    assert tune("forecast", grid[0], "--plot", path).returncode == 0
    text = path.read_text(encoding="utf-8")
    assert "<svg" in text
    assert text.count("<path") > 50


BAD = {
    "name": (("--layrs", 1), "Unknown option: --layrs. Did you mean --layers?"),
    "empty range": (("--units", "9:5"), "units must be a range whose low end is below the high one, got '9:5', which is empty"),
    "empty list": (("--batch", ""), "batch must be whole numbers"),
    "range in a grid": (("--lr", "0.1:1"), "learning-rate must be values joined by ',' for a grid"),
    "sampler": (("--sampler", "grdi"), "sampler must be one of grid, random"),
    "trials": (("--trials", 0), "trials must be at least 1, got 0"),
    "more than the grid": (("--trials", 99), "trials must be at most the 12 points of the grid, got 99"),
    "ranks per trial": (("--ranks-per-trial", 0), "ranks-per-trial must be at least 1, got 0"),
    "batch for ranks": (("--ranks-per-trial", 40), "batch must be at least dp x microbatches = 40"),
    "batch for samples": (("--batch", "32,321"), "batch must be at most the 320 training samples of drawn, got 321"),
    "validation": (("--validation", 1), "validation must be a share above 0 and below 1, got 1.0"),
    "seed": (("--seed", -1), "seed must be at least 0, got -1"),
    "momentum": (("--momentum", 1), "momentum must be less than 1, got 1.0"),
    "dtype": (("--dtype", "float16"), "dtype must be one of float32, float64, got 'float16'"),
    "data": (("--data", "noise"), "data must have something to learn"),
    "plot": (("--plot", "/nowhere/x.svg"), "plot must be a file in a folder that exists"),
    "plot suffix": (("--plot", "x.txt"), "plot must end in one of"),
    "out": (("--out", "/dev/null/x"), "out must be a folder that can be made"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_status_2(name: str, tmp_path: Path) -> None:
    arguments, message = BAD[name]
    out = () if name == "out" else ("--out", tmp_path)
    assert_one_error(tune("--num-train", 400, *arguments, *out), message)
    assert not (tmp_path / "trials.jsonl").exists()


def test_process_ends_with_status_2_too(tmp_path: Path) -> None:
    ended = run_process(tune_command("--units", "9:5", "--out", tmp_path))
    assert_one_error(ended, "units must be a range whose low end is below the high one")


BAD_FORECASTS = {
    "no folder": ((), "folders must name at least one folder"),
    "absent": (("/nowhere",), "/nowhere/trials.jsonl must be the journal of a search"),
    "ranks": (("/nowhere", "--ranks", "0"), "ranks must be whole numbers above 0"),
    "trials": (("/nowhere", "--trials", "0"), "trials must be a finite number greater than 0, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FORECASTS)
def test_bad_forecast_is_one_message_and_status_2(name: str) -> None:
    arguments, message = BAD_FORECASTS[name]
    assert_one_error(tune("forecast", *arguments), message)


def test_folder_of_another_search_is_refused(grid: tuple[Path, dict[str, Any]]) -> None:
    before = (grid[0] / "trials.jsonl").read_bytes()
    ended = tune(*GRID, "--seed", 1, "--out", grid[0])
    assert_one_error(ended, "out must be a new folder for another search")
    assert "has seed 0, got 1" in ended.stderr
    assert (grid[0] / "trials.jsonl").read_bytes() == before


@pytest.mark.mpi
def test_bad_input_is_one_message_under_mpiexec_too(
    launch_each: LaunchEach, tmp_path: Path
) -> None:
    lines = [("--ranks-per-trial", 3, "--out", tmp_path), ("--out", "/dev/null/x")]
    messages = [
        "ranks-per-trial must be at most 2, since rank 0 of 3 only hands out, got 3",
        BAD["out"][1],
    ]
    ended = launch_each(3, "exec.tune", [("--num-train", 400, *line) for line in lines])
    for (first, *others), message in zip(ended, messages, strict=True):
        assert_one_error(first, message)
        assert [(each.returncode, each.stdout, each.stderr) for each in others] == [(2, "", "")] * 2


ENDLESS = (*SMALL[:4], "--layers", "1", "--units", "12", "--epochs", "1,1000000")


@pytest.mark.parametrize("options", [(), ("--ranks-per-trial", "2")])
def test_ctrl_c_ends_a_search_with_status_130(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = tune_command(*ENDLESS, *options, "--out", tmp_path)
    ended = run_process(command, timeout_s=20, interrupt_at="trial   0")
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr == "error: interrupted\n"
    assert list(read_journal(tmp_path / "trials.jsonl").trials) == [0]


@pytest.mark.mpi
@pytest.mark.parametrize("options", [(), ("--ranks-per-trial", "2")])
def test_ctrl_c_ends_a_search_on_mpi(
    launch: Launch, tmp_path: Path, options: tuple[str, ...]
) -> None:
    arguments = (*ENDLESS, *options, "--out", str(tmp_path))
    ended = launch(3, "exec.tune", *arguments, timeout_s=20, interrupt_at="trial   0")
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert 0 in read_journal(tmp_path / "trials.jsonl").trials
