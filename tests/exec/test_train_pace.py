"""The command line with ``--pace``: the same training, only longer."""

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from calibration.find import find_machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.pace import dilated, pace_of
from tests.exec.test_train import SMALL, assert_one_error, record_of, train


def make_pace(
    path: Path, mesh: Mesh = Mesh(), options: PlanOptions = PlanOptions(),
    multiple: float = 0.1,
) -> Path:  # fmt: skip
    """Write a pace of the small network's training."""
    machine = dilated(find_machine("paper/measurements/machine-2core-epyc.json"), multiple)
    workload = Workload(parse_net("128-12-26"), 32)
    pace = pace_of(machine, multiple, workload, mesh, options, 530)
    path.write_text(json.dumps(pace), encoding="utf-8")
    return path


PLANS = {
    "data": (Mesh(dp=2), PlanOptions(bucket_nbytes=1024, overlap=True, algorithm=Algorithm.RING),
             ("--algorithm", "ring", "--overlap", "--bucket-kib", 1)),
    "pipeline": (Mesh(pp=2), PlanOptions(4), ("--microbatches", 4)),
    "averaging": (Mesh(dp=2), PlanOptions(average_every=3, algorithm=Algorithm.RING, strategy=Strategy.AVERAGING),
                  ("--average-every", 3, "--algorithm", "ring")),
}  # fmt: skip


@pytest.mark.parametrize("strategy", PLANS)
def test_a_padded_training_ends_with_the_same_bits_and_says_so(
    tmp_path: Path, strategy: str
) -> None:
    mesh, plan_options, options = PLANS[strategy]
    pace = make_pace(tmp_path / "pace.json", mesh, plan_options)
    arguments = (*SMALL, "--ranks", 2, "--strategy", strategy, *options, "--json")
    plain, padded = tmp_path / "plain.safetensors", tmp_path / "padded.safetensors"
    record = record_of(train(*arguments, "--save", plain))
    assert record["padded"] is None
    record = record_of(train(*arguments, "--save", padded, "--pace", pace, "--noise", "lognormal:0.1"))  # fmt: skip
    expected, found = load_file(plain), load_file(padded)
    assert all((expected[name] == found[name]).all() for name in expected)
    says = record["padded"]
    assert isinstance(says, dict)
    assert says["multiple"] == 0.1
    assert says["noise"] == "lognormal:0.1"
    assert says["source"] == "measured x 0.1"


def test_a_step_lasts_no_less_than_its_ops_and_a_slow_one_longer(tmp_path: Path) -> None:
    few = ("--net", "128-12-26", "--num-train", 320, "--num-test", 26, "--epochs", 1)
    pace = make_pace(tmp_path / "pace.json", multiple=50.0)
    least_s = 0.0
    times_s = json.loads(pace.read_text(encoding="utf-8"))["times_s"]
    for shapes in times_s.values():  # a layer has shapes of its own; the last batch is left out
        least_s += sum(each for shape, each in shapes.items() if not shape.startswith("18x"))
    plain = record_of(train(*few, "--pace", pace, "--json"))
    assert plain["step_time_s"] >= least_s  # type: ignore[operator]  # a number
    slow = record_of(train(*few, "--pace", pace, "--slow", "0=2", "--json"))
    assert slow["step_time_s"] >= 2 * least_s  # type: ignore[operator]  # a number
    assert slow["slow"] == {"0": 2.0}


def test_what_a_pace_lacks_is_one_message(tmp_path: Path) -> None:
    pace = make_pace(tmp_path / "pace.json")
    assert_one_error(train(*SMALL, "--batch", 64, "--pace", pace), "pace must have a time for each op of the program, got none for ")  # fmt: skip
    other = ("--ranks", 2, "--strategy", "tensor")
    assert_one_error(train(*SMALL, *other, "--pace", pace), "make it anew with python -m sim.pace")


@pytest.mark.parametrize("arguments, message", [
    (("--pace", "/nowhere/pace.json"), "pace must be a file of op times, got /nowhere/pace.json"),
    (("--noise", "lognormal:0.1"), "noise needs --pace"),
    (("--pace", "x", "--noise", "loud"), "noise must be lognormal or exponential"),
    (("--pace", "x", "--device", "emulated"), "pace needs --device cpu, got emulated"),
])  # fmt: skip
def test_bad_pacing_is_one_message(arguments: tuple[object, ...], message: str) -> None:
    assert_one_error(train(*arguments), message)
