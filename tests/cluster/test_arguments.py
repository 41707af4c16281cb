"""What the rig and the campaign refuse, with one message, and what they are asked for."""

import json
import sys
from pathlib import Path

import pytest

from calibration.find import find_machine
from exec.cli import run_app
from exec.errors import UsageError
from exec.plan.epoch import check_plan
from exec.plan.strategy import Strategy
from exec.runtime.pace import Pace
from sim.pace import dilated, pace_of
from tests.cluster.__main__ import app
from tests.cluster.campaign import _done
from tests.cluster.cases import variants
from tests.cluster.spec import Spec, parse_rate, read_spec
from tests.conftest import run_process
from tests.exec.test_train import assert_one_error

BAD = {
    "no host": (("up", "--hosts", 0), "hosts must be"),
    "many hosts": (("up", "--hosts", 65), "hosts must be at most 64, got 65"),
    "no rank": (("up", "--ranks-per-host", 0), "ranks-per-host must be"),
    "rate word": (("up", "--rate", "fast"), "rate must be a rate of at least 8kbit, such as 100mbit, got 'fast'"),
    "rate nothing": (("up", "--rate", "0mbit"), "rate must be a rate of at least 8kbit, such as 100mbit, got '0mbit'"),
    "slow word": (("up", "--slow-link", "3:20mbit"), "slow-link must be a host and a rate, such as 3=20mbit, got '3:20mbit'"),
    "slow stranger": (("up", "--hosts", 2, "--slow-link", "3=20mbit"), "slow-link must name hosts 0 .. 1, each once, got [3]"),
    "slow twice": (("up", "--slow-link", "3=20mbit", "--slow-link", "3=10mbit"), "each once, got [3, 3]"),
    "three racks": (("up", "--racks", 3, "--uplink", "1gbit"), "racks must be 1 or 2 and divide the 8 hosts, got 3"),
    "odd racks": (("up", "--hosts", 3, "--racks", 2, "--uplink", "1gbit"), "racks must be 1 or 2 and divide the 3 hosts, got 2"),
    "no uplink": (("up", "--racks", 2), "uplink and 2 racks must be given together"),
    "no racks": (("up", "--uplink", "1gbit"), "uplink and 2 racks must be given together"),
    "burst": (("up", "--burst", 100), "burst must be 10000 bytes (more than a packet) to 16 MiB, got 100"),
    "name": (("up", "--name", "a b"), "name must be 1 to 20 small letters and digits, got 'a b'"),
    "both": (("down", "--all", "--name", "x"), "name and all must not both be given"),
    "timeout": (("run", "--timeout-s", 0, "--", "true"), "timeout-s must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_one_message_and_status_2(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD[case]
    with pytest.raises(SystemExit) as ended:
        run_app(app, list(map(str, arguments)))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1 + ("Try:" in told)


def test_without_root_or_tools_one_message_says_so() -> None:
    command = [sys.executable, "-m", "tests.cluster", "up", "--name", "never"]
    # In a user namespace of its own, a process is nobody.
    if run_process(["unshare", "--user", "true"]).returncode == 0:
        assert_one_error(run_process(["unshare", "--user", *command]), "the rig needs root")
    ended = run_process(command, PATH="/nowhere")
    assert_one_error(ended, "the rig needs ")


def test_a_rig_is_read_as_it_was_written() -> None:
    spec = Spec(4, 10**8, 2, ((1, 10**7), (3, 10**6)), 2, 5 * 10**7, 12_000)
    assert read_spec(json.loads(json.dumps(spec.record()))) == spec
    assert [spec.rack_of(host) for host in range(4)] == [0, 0, 1, 1]
    assert [spec.rate_of(host) for host in range(4)] == [10**8, 10**7, 10**8, 10**6]


def test_rates_are_spelled_as_for_tc() -> None:
    assert [parse_rate("rate", each) for each in ("64kbit", "1.5mbit", "2gbit")] == [64_000, 1_500_000, 2 * 10**9]  # fmt: skip


def test_the_campaign_has_cases_of_every_kind_and_each_can_be_run() -> None:
    found = variants(10**8)
    names = [case.name for variant in found for case in variant.cases]
    assert len(set(names)) == len(names)
    plain = found[0].cases
    assert len(plain) >= 24
    asked = {Strategy.DATA, Strategy.PIPELINE, Strategy.TENSOR, Strategy.HYBRID, Strategy.AVERAGING, Strategy.SERVER}  # fmt: skip
    assert {case.strategy for case in plain} == asked
    machine = dilated(find_machine("paper/measurements/machine-2core-epyc.json"), 2.0)
    for variant in found:
        assert variant.spec.hosts * variant.spec.ranks_per_host == 8
        for case in variant.cases:
            check_plan(case.workload, case.mesh, case.plan_options)
            pace = pace_of(machine, 2.0, case.workload, case.mesh, case.plan_options, case.num_train)  # fmt: skip
            assert Pace.model_validate_json(json.dumps(pace)).multiple == 2.0


def test_a_campaign_goes_on_after_the_last_whole_line_and_without_what_came_late(
    tmp_path: Path,
) -> None:
    path, settings = tmp_path / "runs.jsonl", {"rate": "100mbit"}
    assert _done(path, settings, 0.01) == set()
    with path.open("a", encoding="utf-8") as file:
        file.write(
            '{"name": "late", "late_share": 0.02}\n{"name": "first", "late_share": 0.01}\n{"name": "sec'
        )
    assert _done(path, settings, 0.01) == {"first"}
    head, first = path.read_text(encoding="utf-8").splitlines()
    assert (json.loads(head)["rate"], json.loads(first)["name"]) == ("100mbit", "first")
    with pytest.raises(UsageError, match="rate must be that of"):
        _done(path, {"rate": "50mbit"}, 0.01)
    path.write_text("no json\n", encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        _done(path, settings, 0.01)
