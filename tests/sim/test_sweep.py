"""A sweep of forecasts: every combination once, whatever stops it, by one process or many."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from calibration.find import find_machine
from exec.cli import run_app
from exec.errors import SweepError
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.forecast import Engine, forecast
from sim.grid import Point
from sim.sweep import app
from sim.sweep_work import Asked, answer_alone
from tests.conftest import ROOT, Launch, run_process

Sweep = Callable[..., list[dict[str, Any]]]
NET = "128-100-26"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "points.jsonl"


@pytest.fixture
def sweep(out: Path) -> Sweep:
    def run(*arguments: str) -> list[dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            run_app(app, ["--out", str(out), "--machine", "ethernet-cluster", *arguments])
        assert ended.value.code == 0
        header, *lines = map(json.loads, out.read_text().splitlines())
        assert header["kind"] == "provenance"
        return lines

    return run


def test_a_sweep_has_every_combination_once_and_its_forecast(sweep: Sweep) -> None:
    lines = sweep("--nodes", "1,2,6", "--batch", "60,64", "--vary", "algorithm=ring,library", "--vary", "strategy=data,averaging")  # fmt: skip
    cells = [tuple(line["cell"].values()) for line in lines]
    assert len(set(cells)) == len(cells) == 3 * 2 * 2 * 2
    machine = find_machine("ethernet-cluster")
    for line in lines:
        cell = line["cell"]
        strategy = Strategy.AVERAGING if cell["strategy"] == "averaging" else Strategy.HYBRID
        options = PlanOptions(algorithm=Algorithm(cell["algorithm"]), strategy=strategy)
        told = forecast(machine, Workload(parse_net(NET), cell["batch"]), Mesh(cell["nodes"]), options)  # fmt: skip
        assert line["step_time_s"] == pytest.approx(told.step_time_s, rel=1e-12)
        assert line["memory_bytes"] == told.memory_bytes


def test_a_sweep_with_intervals_has_those_of_the_forecasts(sweep: Sweep) -> None:
    machine = find_machine("ethernet-cluster")
    for line in sweep("--nodes", "1,4", "--batch", "64", "--intervals"):
        told = forecast(machine, Workload(parse_net(NET), 64), Mesh(line["cell"]["nodes"]))
        found = line["step_time_low_s"], line["step_time_high_s"]
        assert found == pytest.approx(told.interval_s, rel=1e-12)
        assert found[0] < line["step_time_s"] < found[1]


def test_the_same_command_answers_only_what_is_missing(
    sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sweep("--nodes", "1,2,4", "--batch", "64")
    text = out.read_bytes()
    out.write_bytes(text[:-20])  # as a crash leaves it
    capsys.readouterr()
    assert sweep("--nodes", "1,2,4", "--batch", "64,128")[: len(whole) - 1] == whole[:-1]
    assert capsys.readouterr().out.startswith("4 points")


def test_a_factor_of_the_bandwidth_makes_messages_as_much_faster(sweep: Sweep) -> None:
    slow, fast = sweep("--nodes", "2", "--net", "784-2000-26", "--vary", "network.bandwidth=1,4")
    ratio = slow["breakdown"]["exposed_comm_s"] / fast["breakdown"]["exposed_comm_s"]
    assert 3.5 < ratio <= 4.0
    assert slow["breakdown"]["compute_s"] == fast["breakdown"]["compute_s"]


def test_what_does_not_fit_is_refused_by_name_and_not_asked_again(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = sweep("--nodes", "1,64", "--batch", "32")
    assert [("refused" in line) for line in sorted(lines, key=lambda line: line["cell"]["nodes"])] == [False, True]  # fmt: skip
    capsys.readouterr()
    sweep("--nodes", "1,64", "--batch", "32")
    assert capsys.readouterr().out.startswith("0 points")


def test_the_table_has_a_row_for_each_point_and_the_plot_is_drawn(
    sweep: Sweep, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    table, plot = tmp_path / "points.csv", tmp_path / "points.svg"
    lines = sweep("--nodes", "1,2", "--batch", "64,128", "--csv", str(table), "--plot", str(plot))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step_time_s"]) for row in rows] == [line["step_time_s"] for line in lines]
    assert plot.read_text().startswith("<?xml")


def test_a_plot_of_intervals_says_what_its_bands_are(sweep: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plain, banded = tmp_path / "plain.svg", tmp_path / "banded.svg"
    sweep("--nodes", "1,2", "--batch", "64", "--plot", str(plain))
    (tmp_path / "points.jsonl").unlink()
    sweep("--nodes", "1,2", "--batch", "64", "--intervals", "--plot", str(banded))
    assert "bands" in banded.read_text()
    assert "bands" not in plain.read_text()


def test_the_record_says_what_was_done_and_which_point_is_the_fastest(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = sweep("--nodes", "1,2,64", "--batch", "32", "--vary", "strategy=data,averaging", "--json")  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    best = max((line for line in lines if "refused" not in line), key=lambda line: line["samples_per_s"])  # fmt: skip
    assert told["fastest"] == best
    counts = told["points"], told["refused"], told["new"], told["solved_together"]
    assert counts == (6, 2, 6, 2)


def test_what_cannot_be_written_is_said_before_any_work(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["--out", str(out), "--machine", "ethernet-cluster", "--csv", str(loop)])
    assert ended.value.code == 2
    assert f"csv {loop} cannot be written" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vary", "colour=red"], "vary must be"),
        (["--vary", "pp=0"], "pp must be a whole number of at least 1, got '0'"),
        (["--vary", "network.bandwidth=-1"], "network.bandwidth must be a factor above 0"),
        (["--nodes", "1,1"], "nodes must not repeat a value"),
        (["--vary", "nodes=2"], "nodes must not be varied twice"),
        (["--plot", "points.txt"], "plot must end in"),
        (["--workers", "0"], "workers must be"),
        (["--csv", "/nowhere/points.csv"], "csv must be a file in a folder that exists"),
        (
            ["--plot", "points.svg", "--batch", ",".join(map(str, range(1, 26)))],
            "plot must have at most 24 lines to be read, got 25",
        ),
    ],
)
def test_bad_input_is_one_message_before_any_work(
    arguments: list[str], says: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["--out", str(out), "--machine", "ethernet-cluster", *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_a_file_of_another_sweep_is_left_as_it_is(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    sweep("--nodes", "1")
    before = out.read_bytes()
    with pytest.raises(SystemExit) as ended:
        run_app(
            app,
            [
                "--out",
                str(out),
                "--machine",
                "ethernet-cluster",
                "--nodes",
                "1",
                "--vary",
                "overlap=yes,no",
            ],
        )
    assert ended.value.code == 2
    assert "out must be a file of this sweep" in capsys.readouterr().err
    assert out.read_bytes() == before


def _points(count: int) -> list[tuple[int, Point]]:
    machine, network = find_machine("ethernet-cluster"), parse_net(NET)
    ring = PlanOptions(algorithm=Algorithm.RING)
    return [(i, Point(machine, Workload(network, 1000 + i), Mesh(8), ring)) for i in range(count)]


def test_processes_answer_as_one_does() -> None:
    told: list[int] = []
    found = dict(
        each
        for some in answer_alone(_points(6), Asked(Engine.SIMULATE), 2, told.append)
        for each in some
    )
    alone = dict(each for some in answer_alone(_points(6), Asked(Engine.SIMULATE), 1, told.append) for each in some)  # fmt: skip
    assert found == alone
    assert sum(told) == 12


def test_a_finished_sweep_by_many_processes_starts_none(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    options = ("--engine", "arrays", "--nodes", "2", "--batch", "64")
    finished = sweep(*options, "--workers", "1")
    capsys.readouterr()
    assert sweep(*options, "--workers", "2") == finished
    assert capsys.readouterr().out.startswith("0 points")


def test_a_killed_worker_ends_the_sweep_with_its_name() -> None:
    answers = answer_alone(_points(200), Asked(Engine.SIMULATE), 2, lambda _: None)
    next(answers)
    killed = multiprocessing.active_children()[0]
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(SweepError, match=f"worker {killed.pid} ended by SIGKILL"):
        list(answers)


_ANSWERING = """
from tests.sim.test_sweep import Asked, Engine, _points, answer_alone
if __name__ == "__main__":
    for _ in answer_alone(_points(5000), Asked(Engine.EVENTS), 2, lambda _: None):
        print("some are answered", flush=True)
"""


def test_workers_end_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "answering.py"
    script.write_text(_ANSWERING)
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"some are answered\n"
        workers = psutil.Process(process.pid).children()
        process.kill()
    ended, left = psutil.wait_procs(workers, timeout=60)
    for each in left:
        each.kill()
    assert len(ended) >= 2
    assert not left


def test_ctrl_c_leaves_a_file_that_the_same_command_ends(sweep: Sweep, out: Path) -> None:
    options = ("--engine", "simulate", "--nodes", "1,2", "--batch", "64,65,66,67")
    command = [sys.executable, "-m", "sim.sweep", "--out", str(out), "--machine", "ethernet-cluster"]  # fmt: skip
    ended = run_process([*command, *options], interrupt_at="one at a time")
    assert ended.returncode == 130
    assert ended.stderr == "error: interrupted\n"
    assert len(sweep(*options)) == 8


@pytest.mark.mpi
def test_ranks_of_many_nodes_answer_as_one_process_does(launch: Launch, sweep: Sweep, out: Path, tmp_path: Path) -> None:  # fmt: skip
    options = ("--engine", "simulate", "--nodes", "1,2,4", "--batch", "64")
    other = tmp_path / "mpi.jsonl"
    ended = launch(
        3,
        "mpi4py.futures",
        "-m",
        "sim.sweep",
        "--out",
        str(other),
        "--machine",
        "ethernet-cluster",
        *options,
    )
    assert ended.returncode == 0, ended.stderr
    sweep(*options, "--workers", "1")
    assert sorted(other.read_text().splitlines()) == sorted(out.read_text().splitlines())


@pytest.mark.mpi
def test_a_launcher_without_its_pool_is_refused_in_one_line(launch: Launch, out: Path) -> None:
    ended = launch(2, "sim.sweep", "--out", str(out), "--machine", "ethernet-cluster")
    assert ended.returncode == 2
    assert ended.stderr.count("error: a launcher must start python -m mpi4py.futures") == 1
    assert not out.exists()
