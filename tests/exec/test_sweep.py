"""The command line, as a user meets it: ``python -m exec.sweep``, with real trainings."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from exec import sweep as sweep_command
from exec.errors import StepcastError, SweepError
from exec.sweeps.cells import key_of
from exec.sweeps.journal import Header, open_journal, read_journal
from exec.sweeps.options import make_axis
from exec.sweeps.run import Sweep, run_cells
from tests.conftest import ROOT, Finished, clean_environment, run_here, run_process

TINY = shlex.split("-- --data drawn --num-train 200 --num-test 50 --net 128-8-26")
THREADS = ("--transport", "threads")


def command(*arguments: object) -> list[str]:
    """Return a sweep's command line."""
    return [sys.executable, "-m", "exec.sweep", *map(str, arguments)]


def sweep(*arguments: object) -> Finished:
    """Run a sweep to its end, in this process; its trainings are processes of their own."""
    return run_here(sweep_command.app, arguments)


@contextmanager
def start(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Start a sweep in a process group of its own, of which nothing outlives the test."""
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=clean_environment(), start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads yet
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def cells_in(text: str) -> list[tuple[Any, ...]]:
    """Return the values of each cell in a sweep's lines."""
    return [tuple(json.loads(line)["cell"].values()) for line in text.splitlines()[1:]]


def test_sweep_keeps_every_record_and_refusal_and_runs_only_what_is_missing(tmp_path: Path) -> None:
    out, figures = tmp_path / "sweep.jsonl", tmp_path / "figures"
    own = ("--out", out, "--strategy", "serial,data", *THREADS, "--json")
    first = sweep(*own, "--ranks", "1,2", *TINY, "--epochs", 2)
    assert first.returncode == 0, first.stderr
    assert first.stdout == out.read_text(encoding="utf-8")
    expected = [(1, "serial", 0), (2, "serial", 0), (1, "data", 0), (2, "data", 0)]
    assert cells_in(first.stdout) == expected
    assert [line.split(":")[0] for line in first.stderr.splitlines()] == [f"cell {i}/4" for i in range(1, 5)]  # fmt: skip
    header, *lines = map(json.loads, first.stdout.splitlines())
    fixed = {"data": "drawn", "epochs": 2, "net": "128-8-26", "num_test": 50, "num_train": 200}
    assert header["fixed"] == fixed
    assert "--ranks 1,2 -- --data drawn" in header["command"]
    assert str(tmp_path) not in first.stdout
    for line in (lines[0], lines[2], lines[3]):
        assert line["record"]["ranks"] == line["cell"]["ranks"]
        assert line["record"]["strategy"] == line["cell"]["strategy"]
        assert [epoch["epoch"] for epoch in line["record"]["epochs"]] == [1, 2]
    assert set(lines[1]) == {"kind", "cell", "refused"}
    assert "serial" in lines[1]["refused"]
    assert "error" not in lines[1]["refused"]

    # More values, in another order; the fixed options in another order, too.
    again = sweep(*own, "--ranks", "3,2,1", "--plot", figures, "--", "--epochs=02", *TINY[1:])
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(first.stdout)
    assert cells_in(again.stdout) == [*expected, (3, "serial", 0), (3, "data", 0)]
    assert again.stderr.startswith("cell 5/6: ranks 3, strategy serial, seed 0\ncell 6/6: ")
    assert {path.name for path in figures.iterdir()} == {"speedup.png", "accuracy.png"}

    table = sweep("--out", out, "--plot-only", "--plot", tmp_path / "all.png")
    assert table.returncode == 0, table.stderr
    assert table.stderr == f"drew {tmp_path / 'all.png'}\n"
    assert [row.split()[:2] for row in table.stdout.splitlines()[1:]] == [
        [str(ranks), strategy] for ranks, strategy, _ in cells_in(again.stdout)
    ]
    assert out.read_text(encoding="utf-8") == again.stdout


@pytest.mark.mpi
def test_mpi_ranks_are_started_and_repeats_have_the_next_seeds(
    mpiexec: str, tmp_path: Path
) -> None:
    ended = sweep("--out", tmp_path / "sweep.jsonl", "--ranks", 2, "--repeats", 2, "--seed", 5, "--json", *TINY, "--epochs", 1)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    header, *lines = map(json.loads, ended.stdout.splitlines())
    assert header["transport"] == "mpi"
    assert cells_in(ended.stdout) == [(2, 5), (2, 6)]
    assert all(line["record"]["provenance"]["transport"] != "threads" for line in lines)
    losses = {line["record"]["epochs"][0]["loss"] for line in lines}
    assert len(losses) == 2  # other seeds, other weights


@pytest.mark.parametrize("seed", [1, 2])
def test_sweep_killed_at_any_moment_goes_on_to_each_cell_exactly_once(
    tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "sweep.jsonl"
    own = ("--out", out, "--batch", "8,16,32", *THREADS, *TINY, "--epochs", 1)
    moment = random.Random(seed)
    with start(*own) as process:
        assert process.stderr is not None
        for _ in range(moment.randint(1, 3)):
            process.stderr.readline()
        try:
            process.communicate(timeout=moment.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    before = out.read_bytes()
    assert before.count(b'"kind": "cell"') < 3  # killed before its end
    ended = sweep(*own)
    assert ended.returncode == 0, ended.stderr
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    found = cells_in(out.read_text(encoding="utf-8"))
    assert Counter(found) == Counter({(1, 8, 0): 1, (1, 16, 0): 1, (1, 32, 0): 1})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_end_it_ends_its_training_and_keeps_what_is_finished(
    tmp_path: Path, number: int, status: int
) -> None:
    out = tmp_path / "sweep.jsonl"
    own = ("--out", out, "--ranks", 2, "--vary", "epochs=1,1000000", *THREADS, *TINY)
    with start(*own) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert lines[1].startswith("cell 2/2: ranks 2, epochs 1000000")
        process.send_signal(number)  # to the sweep alone, not to its group as a terminal would
        _, err = process.communicate(timeout=20)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left
    assert process.returncode == status
    assert err == ("error: interrupted\n" if number == signal.SIGINT else "")
    assert cells_in(out.read_text(encoding="utf-8")) == [(2, 1, 0)]


@pytest.mark.parametrize(
    ("launcher", "problem"), [("false", "status 1"), ("true", "status 0 but no record")]
)
def test_failed_training_ends_the_sweep_and_is_named(
    tmp_path: Path, launcher: str, problem: str
) -> None:
    out = tmp_path / "sweep.jsonl"
    header = Header(transport="mpi", axes=("ranks",), fixed={}, cpu="Z80")
    first, second = ({"ranks": ranks, "seed": 0} for ranks in (1, 2))
    planned = Sweep((make_axis("ranks", ["1", "2"]),), (first, second), (), launcher)
    with open_journal(out, header) as writer:
        writer.append({"kind": "cell", "cell": first, "refused": "no"})
    with (
        open_journal(out, header) as writer,
        pytest.raises(SweepError, match=f"^the training of ranks 2, seed 0 ended with {problem}") as raised,
    ):  # fmt: skip
        run_cells(planned, writer, lambda _: None)
    assert f"finished cells are in {out}" in str(raised.value)
    assert read_journal(out).keys == {key_of(first)}


def test_sweep_of_refusals_only_is_one_message_and_status_2(tmp_path: Path) -> None:
    out, missing = tmp_path / "sweep.jsonl", tmp_path / "none"
    ended = sweep("--out", out, *THREADS, "--", "--data", "letters", "--data-dir", missing)
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "was refused, the first with: letters needs letter.data.gz" in ended.stderr
    assert str(tmp_path) not in out.read_text(encoding="utf-8")


BAD = {
    "empty list": (("--batch", ""), "batch must be values joined by commas, got ''"),
    "not a number": (("--batch", "8,many"), 'exec.train: .*"many" is not a whole number'),
    "unknown": (("--vary", "momentun=0,0.9"), "did you mean 'momentum'"),
    "no values": (("--vary", "momentum"), "vary must be NAME=V1,V2, got 'momentum'"),
    "twice": (("--batch", "8", "--vary", "batch=16"), "batch must not be varied twice"),
    "ranks twice": (("--vary", "ranks=2"), "ranks must not be varied twice; give --ranks"),
    "no ranks": (("--ranks", "0,1"), "ranks must be at least 1, got 0,1"),
    "fixed too": (("--batch", "8", "--", "--batch", "16"), "batch must not be both varied and handed on"),
    "unknown fixed": (("--", "--epoch", "1"), "Did you mean --epochs"),
    "repeats": (("--repeats", "0"), "repeats must be at least 1 and seed at least 0, got 0 and 0"),
    "seed": (("--seed", "-1"), "repeats must be at least 1 and seed at least 0, got 1 and -1"),
    "plot": (("--plot", "/nowhere/figures"), "plot must be a folder, or a file in a folder that"),
    "nothing there": (("--plot-only",), "cannot be read: No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_before_anything_runs(tmp_path: Path, name: str) -> None:
    out = tmp_path / "sweep.jsonl"
    arguments, message = BAD[name]
    with pytest.raises(StepcastError, match=message):
        sweep_command.app(["--out", str(out), *arguments], exit_on_error=False, print_error=False)
    assert not out.exists()


def test_launcher_around_a_sweep_is_refused(tmp_path: Path) -> None:
    ended = run_process(command("--out", tmp_path / "x"), PMI_SIZE="2", PMI_RANK="0")
    assert ended.returncode == 2
    assert ended.stderr == "error: exec.sweep must be started alone, without a launcher; it starts mpiexec itself\n"  # fmt: skip
