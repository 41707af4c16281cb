"""The comparison of schemes: its rows are the forecasts, and its thresholds are where they cross."""

import json
from pathlib import Path

import pytest
from cyclopts import App
from hypothesis import given
from hypothesis import strategies as st

from calibration.machine import read_machine, write_machine
from exec.cli import run_app
from exec.network.network import mlp
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.compare import Scheme, Setting, _first, app
from sim.predict import app as predict_app
from tests.agreement.hand_made import compute, machine

SAME = 1e-9
NET = ("--net", "64-50-10", "--batch", "256", "--epoch-samples", "2560")


@pytest.fixture
def on(tmp_path: Path) -> Path:
    """Return a Machine file whose messages cost about what a layer costs."""
    path = tmp_path / "round.json"
    write_machine(machine(compute=compute(noise_rel_sigma=0.02)), path)
    return path


def run(app: App, *arguments: str) -> None:
    """Run the command, which must succeed."""
    with pytest.raises(SystemExit) as end:
        run_app(app, arguments)
    assert end.value.code == 0


def record(capsys: pytest.CaptureFixture[str], on: Path, *arguments: str) -> dict:  # type: ignore[type-arg]  # of JSON
    """Return the record of a comparison."""
    run(app, *arguments, "--machine", str(on), "--json")
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@given(st.integers(-5, 5), st.integers(0, 40), st.integers(-10, 50))
def test_a_threshold_is_the_first_from_which_it_holds(low: int, size: int, at: int) -> None:
    found = _first(lambda x: x >= at, low, low + size)
    expected = [x for x in range(low, low + size + 1) if x >= at]
    assert found == (expected[0] if expected else None)


def test_nothing_is_looked_for_in_an_empty_range() -> None:
    assert _first(lambda _: True, 3, 2) is None


def test_rows_are_the_forecasts_of_predict(capsys: pytest.CaptureFixture[str], on: Path) -> None:
    rows = {row["scheme"]: row for row in record(capsys, on, *NET, "--nodes", "8")["rows"]}
    flags = {
        "all-reduce, ring": ("data", "--algorithm", "ring"),
        "averaging every 4": ("averaging", "--average-every", "4"),
        "master_round_trip": ("master_round_trip",),
        "server, 4 serving": ("server", "--servers", "4"),
        "async_server, 1 serving": ("async_server",),
    }
    for name, (strategy, *more) in flags.items():
        run(predict_app, *NET, "--nodes", "8", "--machine", str(on), "--json", "--strategy", strategy, *more)  # fmt: skip
        last = json.loads(capsys.readouterr().out)["rows"][-1]
        assert last["nodes"] == 8
        assert rows[name]["step_time_s"] == pytest.approx(last["step_time_s"], rel=SAME), name
        assert rows[name]["staleness"] == last["staleness"]


def test_the_best_of_each_shape_of_mesh_is_that_of_predict(
    capsys: pytest.CaptureFixture[str], on: Path
) -> None:
    net = ("--net", "svhn-cnn", "--batch", "64", "--nodes", "4")
    rows = {row["scheme"]: row for row in record(capsys, on, *net)["rows"]}
    run(predict_app, *net, "--machine", str(on), "--json")
    last = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["nodes"] == 4]
    assert {"tensor", "hybrid", "krizhevsky"} <= {row["strategy"] for row in last}
    for row in last:
        own = rows["all-reduce, library" if row["strategy"] == "data" else row["strategy"]]
        assert own["step_time_s"] == pytest.approx(row["step_time_s"], rel=SAME)
        assert own["mesh"] == row["mesh"]
        assert own["imbalance"] == row["imbalance"]


def test_bytes_of_an_epoch_are_those_of_its_messages(
    capsys: pytest.CaptureFixture[str], on: Path
) -> None:
    rows = {row["scheme"]: row for row in record(capsys, on, *NET, "--nodes", "8")["rows"]}
    state = 8 * (50 * 65 + 10 * 51)  # float64, as the machine
    ring = 2 * 7 * state  # all ranks together
    assert rows["all-reduce, ring"]["epoch_nbytes"] == pytest.approx(10 * ring)
    assert rows["averaging every 4"]["epoch_nbytes"] == pytest.approx(3 * ring)  # 10 steps: 4, 4, 2
    assert rows["server, 1 serving"]["epoch_nbytes"] == pytest.approx(10 * 2 * 7 * state)
    assert rows["master_round_trip"]["epoch_nbytes"] == pytest.approx(10 * 2 * 7 * state)


def test_crossovers_are_where_the_forecasts_cross(
    capsys: pytest.CaptureFixture[str], on: Path
) -> None:
    found = record(capsys, on, *NET, "--nodes", "16", "--servers", "1")
    setting = Setting(read_machine(on), Workload(mlp(64, 50, 10), 256, 8), 1, 2560)
    ring = Scheme("", PlanOptions(strategy=Strategy.DATA, algorithm=Algorithm.RING))
    server = Scheme("", PlanOptions(strategy=Strategy.SERVER))

    def loses(nodes: int) -> bool:
        ours, theirs = setting.forecast(ring, nodes), setting.forecast(server, nodes)
        assert ours is not None
        assert theirs is not None
        return theirs.step_time_s > ours.step_time_s

    answers = {each["question"]: each["answer"] for each in found["crossovers"]}
    at = answers["server_loses_from_nodes"]
    assert [loses(nodes) for nodes in range(2, 17)] == [nodes >= at for nodes in range(2, 17)]


def test_a_slow_node_hurts_the_all_reduce_more_than_the_asynchronous_server(
    capsys: pytest.CaptureFixture[str], on: Path
) -> None:
    even, slow = (
        {row["scheme"]: row["step_time_s"] for row in record(capsys, on, *NET, "--nodes", "8", *more)["rows"]}
        for more in ((), ("--slow", "7=8"))
    )  # fmt: skip
    hurt = {name: slow[name] / even[name] for name in even}
    assert hurt["all-reduce, library"] > hurt["async_server, 1 serving"]
    assert min(hurt.values()) >= 1 - SAME


def test_a_batch_too_small_for_replicas_leaves_the_meshes_and_nothing_to_cross(
    capsys: pytest.CaptureFixture[str], on: Path
) -> None:
    found = record(capsys, on, "--batch", "2", "--nodes", "16")
    assert {row["strategy"] for row in found["rows"]} == {"tensor", "hybrid"}
    assert found["crossovers"] == []


def test_the_picture_is_drawn(tmp_path: Path, on: Path) -> None:
    pytest.importorskip("matplotlib")
    run(app, *NET, "--nodes", "4", "--machine", str(on), "--plot", str(tmp_path / "c.svg"))
    text = (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert "<svg" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nodes", "0"), "nodes must be a finite number greater than 0"),
        (("--servers", "0"), "servers must be a finite number greater than 0"),
        (("--slow", "99=2"), "slow must name ranks 0 .. 63"),
        (("--slow", "1=0.5"), "slow must have a factor of at least 1"),
        (("--plot", "c.txt"), "plot must be"),
        (("--batch", "2", "--nodes", "4096"), "batch must be at least"),
        (("--nodes", "100000"), "at most 16,384"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    capsys: pytest.CaptureFixture[str], on: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run_app(app, ["--machine", str(on), *arguments])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in out + err
