"""Every kind of committed run is read, forecast anew and judged."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from calibration.ladder import ladder
from calibration.machine import Machine, read_machine
from exec.errors import MachineError
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.evidence import Evidence, Judged, counted, verdict_of
from sim.evidence_files import NOT_JUDGED, READERS, evidence_of, is_records, why_not_judged
from sim.evidence_runs import LETTERS_SAMPLES
from sim.forecast import forecast
from tests.conftest import ROOT

MEASURED = ROOT / "paper" / "measurements"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return read_machine(MEASURED / "machine-2core-epyc.json")


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (MEASURED / name).read_text().splitlines()]


def test_every_committed_file_of_records_is_judged_or_says_why_not() -> None:
    for path in sorted(MEASURED.glob("*.jsonl")):
        kinds = {str(each["kind"]) for each in lines(path.name)}
        assert kinds & READERS.keys() or why_not_judged(path) in NOT_JUDGED.values(), path.name
    assert is_records(MEASURED / "letters-2core-epyc.json")
    assert not is_records(MEASURED / "machine-2core-epyc.json")


def test_schemes_are_epochs_and_what_was_oversubscribed_stands_apart(machine: Machine) -> None:
    own, over = evidence_of(MEASURED / "schemes-2core-epyc.jsonl", machine)
    head, *records = lines("schemes-2core-epyc.jsonl")
    records = [each for each in records if "forecast_s" in each]
    assert (own.is_apart, over.is_apart) == (False, True)
    assert over.source.endswith("(oversubscribed)")
    for evidence in (own, over):
        chosen = [each for each in records if each["oversubscribed"] is evidence.is_apart]
        assert [case.measured_s for case in evidence.cases] == [each["epoch_time_s"] for each in chosen]  # fmt: skip
        for case, each in zip(evidence.cases, chosen, strict=True):
            if each["strategy"] == "averaging":
                options = PlanOptions(strategy=Strategy.AVERAGING, average_every=each["average_every"])  # fmt: skip
                answer = forecast(machine, Workload(parse_net(head["net"]), head["batch"]), Mesh(each["ranks"]),
                                  options, ranks_per_node=each["ranks"], epoch_samples=LETTERS_SAMPLES)  # fmt: skip
                assert case.forecast_s == pytest.approx(answer.epoch_time_s(LETTERS_SAMPLES), rel=1e-9)  # fmt: skip
    assert verdict_of(own.cases).num_ranked > 0


def test_a_slower_rank_is_forecast_to_take_longer(machine: Machine) -> None:
    own, over = evidence_of(MEASURED / "slow-node-2core-epyc.jsonl", machine)
    assert {case.what for case in own.cases} == {"data"}
    assert {case.what for case in over.cases} == {"async_server"}
    for evidence in (own, over):
        times_s = [case.forecast_s for case in evidence.cases]
        assert times_s == sorted(set(times_s))
    first, *_, last = own.cases
    assert 4 * first.forecast_s < last.forecast_s < 8 * first.forecast_s  # messages take as long


def test_a_benchmark_of_the_trainer_is_steps_of_one_rank(machine: Machine) -> None:
    (evidence,) = evidence_of(MEASURED / "trainer-2core-epyc.jsonl", machine)
    alone = [each for each in lines("trainer-2core-epyc.jsonl") if each["kind"] == "trainer"]
    for case, each in zip(evidence.cases, alone, strict=True):
        assert case.ranks == 1
        assert case.measured_s == pytest.approx(each["batch"] / each["samples_per_s"]["stepcast"], rel=1e-6)  # type: ignore[index, operator]  # fmt: skip


@pytest.mark.parametrize("name", ["mnist-2core-epyc.jsonl", "letters-2core-epyc.json"])
def test_a_training_is_its_median_step(name: str, machine: Machine) -> None:
    (evidence,) = evidence_of(MEASURED / name, machine)
    records = [each for each in lines(name) if "step_time_s" in each]
    assert [case.measured_s for case in evidence.cases] == [each["step_time_s"] for each in records]
    assert [case.ranks for case in evidence.cases] == [each["ranks"] for each in records]


def test_no_net_that_was_trained_was_on_the_ladder() -> None:
    seen = {(each.net, each.global_batch) for each in ladder(200)}
    for name in ("trainer-2core-epyc.jsonl", "mnist-2core-epyc.jsonl", "letters-2core-epyc.json", "schemes-2core-epyc.jsonl", "slow-node-2core-epyc.jsonl"):  # fmt: skip
        assert not seen & {(each["net"], each["batch"]) for each in lines(name) if "batch" in each}


def test_what_others_measured_is_kept_as_shares_with_its_source() -> None:
    head, *records = lines("held-out.jsonl")
    assert all(re.fullmatch("[0-9a-f]{64}", each["sha256"]) and each["source"] for each in head["files"])  # type: ignore[attr-defined, index, call-overload]  # fmt: skip
    assert not any(name.endswith("_s") or "byte" in name for each in records for name in each)
    evidence = evidence_of(MEASURED / "held-out.jsonl", None)
    cases = [case for each in evidence for case in each.cases]
    assert len(cases) == len(records)
    assert all(each.is_relative for each in evidence)
    by_source: dict[object, list[float]] = {}
    for each in records:
        by_source.setdefault(each["source"], []).append(float(each["ratio"]))  # type: ignore[arg-type]
    assert {each.source: [1.0 + case.error for case in each.cases] for each in evidence} == {
        source: pytest.approx(ratios, rel=1e-12) for source, ratios in by_source.items()
    }
    assert verdict_of(cases).num_ranked == 0


BROKEN = {
    "a key less": ('{"kind": "mnist", "net": "cnn"}', "line 2 .* KeyError: 'mesh'"),
    "a word for a number": ('{"kind": "held out", "size_class": null, "system": "a", "what": "b", "ranks": 2, "ratio": "x", "low": 1, "high": 1, "extrapolation": 1}', "line 2 .* ValueError"),
    "no JSON": ("{", "line 2 must be JSON"),
    "a list": ("[]", "line 2 must be a JSON object"),
    "another kind": ('{"kind": "weather"}', "got weather$"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_refused_by_its_line(name: str, tmp_path: Path, machine: Machine) -> None:  # fmt: skip
    line, message = BROKEN[name]
    path = tmp_path / "broken.jsonl"
    path.write_text(f'{{"kind": "provenance"}}\n{line}\n')
    with pytest.raises(MachineError, match=message):
        evidence_of(path, machine)


def test_what_stands_apart_is_no_part_of_all() -> None:
    one = Judged("", "", 1.0, 1.0, 1.0, 1.0)
    assert counted([Evidence("a", "", (one,)), Evidence("b", "", (one, one), is_apart=True)]) == [one]  # fmt: skip
