"""The trainer's all-reduce and the forecast's are one choice: what is asked without one is what is run."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.device.kind import DeviceKind
from exec.network.network import mlp
from exec.plan.options import PlanOptions
from exec.plan.strategy import LOCKSTEP, Strategy
from exec.plan.window import check_placement, chosen_algorithm
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.runtime.placement import placed
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload
from sim.compare import Setting, schemes
from sim.placement import reduced
from sim.predict import app
from sim.sweep_points import Points
from tests.agreement.hand_made import machine

MEASURED = "paper/measurements/machine-2core-epyc.json+ethernet-cluster"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    dp=st.integers(1, 4), pp=st.integers(1, 2), overlap=st.booleans(), device=st.sampled_from([DeviceKind.CPU, DeviceKind.EMULATED]),
    strategy=st.sampled_from([*LOCKSTEP, Strategy.AVERAGING]), ranks_per_node=st.integers(1, 8),
)  # fmt: skip
def test_the_trainer_takes_what_the_forecast_takes(
    dp: int, pp: int, overlap: bool, device: DeviceKind, strategy: Strategy, ranks_per_node: int
) -> None:
    mesh = Mesh(dp, pp)
    options = PlanOptions(overlap=overlap, strategy=strategy, device=device)
    plan = TrainingPlan(Workload(mlp(4, 4, 2), 8), mesh, options)
    ran = run_threads(mesh.world_size, lambda wire: placed(plan, ranks_per_node, wire, chooses=True))  # fmt: skip
    expected = chosen_algorithm(mesh, options, ranks_per_node)
    assert {each.options.algorithm for each in ran} == {expected}
    check_placement(mesh, ran[0].options, ranks_per_node)


def predicted(capsys: pytest.CaptureFixture[str], *options: object) -> list[dict[str, object]]:
    """Return the rows of a forecast."""
    with pytest.raises(SystemExit) as ended:
        app(["--machine", MEASURED, "--net", "64-64-8", "--batch", "64", "--json", *map(str, options)])  # fmt: skip
    assert ended.value.code == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)["rows"]
    return rows


def test_a_forecast_of_one_node_is_that_of_a_window_and_of_more_that_of_the_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ("--nodes", 2, "--ranks-per-node", 2, "--strategy", "data")
    one, two = predicted(capsys, *where)
    assert (one["nodes"], one["algorithm"]) == (1, Algorithm.SHARED_WINDOW)
    assert (two["nodes"], two["algorithm"]) == (2, Algorithm.LIBRARY)
    (asked,) = predicted(capsys, "--nodes", 1, "--ranks-per-node", 2, "--strategy", "data", "--algorithm", "shared_window")  # fmt: skip
    assert one["step_time_s"] == asked["step_time_s"]
    library, same = predicted(capsys, *where, "--algorithm", "library")
    assert library["step_time_s"] != one["step_time_s"]
    assert same["step_time_s"] == two["step_time_s"]


def test_a_search_takes_windows_for_the_meshes_that_have_replicas_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = predicted(capsys, "--nodes", 1, "--ranks-per-node", 4)
    assert {row["strategy"] for row in rows} >= {"data", "hybrid", "tensor"}
    for row in rows:
        has_replicas = row["mesh"]["dp"] > 1  # type: ignore[index]
        assert row["algorithm"] == (Algorithm.SHARED_WINDOW if has_replicas else Algorithm.LIBRARY)


def test_the_table_says_by_which_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in ((("--ranks-per-node", "2"), "shared_window (1); library (2)"),
                              (("--ranks-per-node", "2", "--algorithm", "hierarchical"), "hierarchical, in shared windows (1, 2)"),
                              (("--ranks-per-node", "1"), "")):  # fmt: skip
        with pytest.raises(SystemExit):
            app(["--machine", MEASURED, "--net", "64-64-8", "--batch", "64", "--nodes", "2", "--strategy", "data", *options])  # fmt: skip
        told = capsys.readouterr().out
        assert ("all-reduce of replicas, by nodes: " in told) == bool(expected)
        assert expected in told


def test_sweeps_and_comparisons_choose_alike() -> None:
    cell = {"machine": MEASURED, "net": "64-64-8", "batch": 64, "ranks_per_node": 2, "strategy": "data"}  # fmt: skip
    for nodes, expected in ((1, Algorithm.SHARED_WINDOW), (2, Algorithm.LIBRARY)):
        assert Points().point(cell | {"nodes": nodes}).options.algorithm is expected
        asked = Points().point(cell | {"nodes": nodes, "algorithm": "ring"})
        assert asked.options.algorithm is Algorithm.RING
    on = Setting(machine(), Workload(mlp(16, 64, 8), 64, 8), 4, 64)
    found = {each.name: each for each in schemes(PlanOptions(ranks_per_node=4), (1,))}
    assert on.plan(found["all-reduce, shared_window"], 2) is None
    window = on.plan(found["all-reduce, shared_window"], 1)
    assert window is not None
    hybrid = on.plan(found["hybrid"], 1)
    assert hybrid is not None
    assert hybrid[0].dp > 1
    assert hybrid[1].algorithm is Algorithm.SHARED_WINDOW
    assert reduced(PlanOptions(), machine(), Mesh(4), 4).algorithm is Algorithm.SHARED_WINDOW
