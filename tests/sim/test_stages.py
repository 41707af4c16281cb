"""The command line that cuts a network into stages."""

import json
from pathlib import Path

import pytest

from calibration.machine import write_machine
from exec.cli import run_app
from exec.network.parse import parse_net
from exec.plan.stages import check_stages, parse_stages
from sim.stages import app
from tests.agreement.hand_made import machine


@pytest.fixture
def on(tmp_path: Path) -> str:
    """Return a Machine file on which every op has a fixed cost, as layers that move data have."""
    write_machine(machine(), tmp_path / "round.json")
    return str(tmp_path / "round.json")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the status, the output and the errors of the command."""
    with pytest.raises(SystemExit) as end:
        run_app(app, arguments)
    return int(end.value.code or 0), *capsys.readouterr()


def test_the_plain_answer_is_what_the_trainer_takes(capsys: pytest.CaptureFixture[str], on: str) -> None:  # fmt: skip
    status, out, _ = run(capsys, "--net", "resnet18-small", "--pp", "4", "--machine", on, "--plain")
    network = parse_net("resnet18-small")
    assert status == 0
    assert out.count("\n") == 1
    cuts = parse_stages(out.strip(), network)
    check_stages(network, 4, cuts)
    assert len(cuts) == 3


def test_both_balances_are_shown_and_the_machine_s_is_the_better(capsys: pytest.CaptureFixture[str], on: str) -> None:  # fmt: skip
    arguments = ("--net", "resnet18-small", "--pp", "3", "--microbatches", "2", "--machine", on)
    record = json.loads(run(capsys, *arguments, "--json")[1])
    ours, theirs = record["by_machine"], record["by_flops"]
    assert max(each["time_s"] for each in ours["stages"]) <= max(each["time_s"] for each in theirs["stages"])  # fmt: skip
    for found in (ours, theirs):
        stages = found["stages"]
        assert sum(each["num_layers"] for each in stages) == 67
        assert sum(each["num_parameters"] for each in stages) == parse_net("resnet18-small").num_parameters  # fmt: skip
        mean_s = sum(each["time_s"] for each in stages) / 3
        assert found["imbalance"] == pytest.approx(max(each["time_s"] for each in stages) / mean_s)
    assert record["stages"] == ",".join(each["first_layer"] for each in ours["stages"][1:])
    table = run(capsys, *arguments)[1]
    assert "balanced by flops" in table
    assert f"--stages {record['stages']}" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pp", "1"), "pp must be at least 2"),
        (("--net", "cnn", "--pp", "4"), "pp must be at most the 3 layers of cnn"),
        (("--batch", "4", "--microbatches", "8"), "batch must be at least dp x microbatches"),
        (("--net", "resnet"), "net"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    capsys: pytest.CaptureFixture[str], on: str, arguments: tuple[str, ...], message: str
) -> None:
    status, out, err = run(capsys, *arguments, "--machine", on)
    assert (status, out) == (2, "")
    assert message in err
