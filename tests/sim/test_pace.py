"""Op times for padded compute: every op of every plan has one, and a forecast adds the same up."""

import json
from itertools import chain
from pathlib import Path

import pytest

from calibration.find import find_machine
from calibration.machine import Machine
from exec.cli import run_app
from exec.errors import MachineError
from exec.network.parse import parse_net
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel, Shape
from exec.runtime.pace import Pace, read_pace
from exec.workload import Workload
from sim.costs import Costs
from sim.engine import READERS
from sim.forecast import Engine, forecast
from sim.pace import app, dilated, pace_of

MULTIPLE = 20.0
BAD = {
    "multiple": (("--multiple", "0"), "multiple must be"),
    "ranks": (("--multiple", "2", "--ranks", "0"), "ranks must be"),
    "folder": (("--multiple", "2", "--machine-out", "/nowhere/m.json"), "machine-out must be a file in a folder that exists"),
    "mesh": (("--multiple", "2", "--ranks", "3", "--strategy", "hybrid", "--dp", "2"), "dp x pp x tp"),
    "nodes": (("--multiple", "2", "--ranks", "4", "--algorithm", "hierarchical"), "ranks-per-node must be given"),
}  # fmt: skip


@pytest.fixture(scope="module")
def machine() -> Machine:
    """Return a machine that was measured."""
    return find_machine("paper/measurements/machine-2core-epyc.json")


@pytest.mark.parametrize("net", ["784-300-100-26", "cnn", "resnet18-small"])
@pytest.mark.parametrize("engine", READERS)
def test_the_padded_times_of_a_step_are_what_its_forecast_adds_up_to(
    machine: Machine, net: str, engine: Engine
) -> None:
    slower = dilated(machine, MULTIPLE)
    workload, options = Workload(parse_net(net), 32), PlanOptions(strategy=Strategy.SERIAL)
    pace = Pace.model_validate_json(json.dumps(pace_of(slower, MULTIPLE, workload, Mesh(), options, 32)))  # fmt: skip
    (segment,) = plan_epoch(workload, Mesh(), options, 32)
    ops = [op for op in segment.program.ops(0) if isinstance(op, Compute)]
    step_s = sum(pace.time_s(op.kernel, op.shape) for op in ops)
    answer = forecast(slower, workload, Mesh(), options, engine=engine)
    assert answer.step_time_s == pytest.approx(step_s, rel=1e-12)
    assert answer.breakdown.compute_s == pytest.approx(step_s, rel=1e-12)


def test_a_dilated_machine_takes_so_many_times_as_long(machine: Machine) -> None:
    workload, twice = Workload(parse_net("784-300-26"), 32), dilated(machine, 2.0)
    once = forecast(dilated(machine, 1.0), workload, Mesh()).step_time_s
    assert forecast(twice, workload, Mesh()).step_time_s == pytest.approx(2 * once, rel=1e-12)


def test_a_dilated_machine_has_no_caches_which_a_pace_by_shape_could_not_tell_apart(
    machine: Machine,
) -> None:
    costs = Costs(dilated(machine, 2.0), Mesh(), 1)
    shape = Shape(32, 784, 4000)
    assert costs.kernel_s(Kernel.LINEAR, shape, 1 << 40) == costs.kernel_s(Kernel.LINEAR, shape, 0)


def test_a_machine_without_compute_has_no_op_times(machine: Machine) -> None:
    with pytest.raises(MachineError, match="says nothing of compute"):
        dilated(machine.model_copy(update={"compute": None}), 2.0)


def test_a_short_last_batch_has_times_of_its_own(machine: Machine) -> None:
    slower, workload = dilated(machine, 2.0), Workload(parse_net("128-12-26"), 32)
    pace = pace_of(slower, 2.0, workload, Mesh(2), PlanOptions(strategy=Strategy.DATA), 50)
    shapes = set(chain.from_iterable(pace["times_s"].values()))
    assert {"16x128x12", "9x128x12"} <= shapes


def test_the_command_writes_what_the_trainer_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, slower = tmp_path / "pace.json", tmp_path / "machine.json"
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["--machine", "paper/measurements/machine-2core-epyc.json", "--multiple", "3", "--out", str(out), "--machine-out", str(slower)])  # fmt: skip
    assert ended.value.code == 0
    assert "op times of measured x 3" in capsys.readouterr().out
    assert read_pace(out).multiple == 3.0
    assert find_machine(str(slower)).links == {}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_message(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD[case]
    given = ("--machine", "paper/measurements/machine-2core-epyc.json")
    with pytest.raises(SystemExit) as ended:
        run_app(app, [*arguments, *given, "--out", str(tmp_path / "pace.json")])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
