"""A campaign's cases are forecast from what differs of the rig, and from nothing else of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from calibration.fabric import FabricKind
from calibration.machine import Tier
from exec.noise import parse_noise
from sim.evidence_rig import campaign_machine, fabric_of, judge_case
from sim.forecast import Engine
from tests.conftest import ROOT

CAMPAIGN = ROOT / "paper" / "measurements" / "cluster"
RECORDS = [json.loads(line) for line in (CAMPAIGN / "runs.jsonl").read_text().splitlines()[1:]]
PLAIN = {
    "hosts": 8,
    "rate_bits_per_s": 10**8,
    "slow_links": [],
    "racks": 1,
    "uplink_bits_per_s": None,
}


def case_of(name: str) -> dict[str, Any]:
    """Return the committed record called ``name``."""
    return next(each for each in RECORDS if each["name"] == name)


def test_a_rig_is_told_by_what_differs_of_it() -> None:
    assert fabric_of(PLAIN) is None
    slow = fabric_of(PLAIN | {"slow_links": [[3, 25_000_000]]})
    assert slow is not None
    assert (slow.kind, slow.links["node3"].share) == (FabricKind.STAR, 0.25)
    racks = fabric_of(PLAIN | {"racks": 2, "uplink_bits_per_s": 2 * 10**8})
    assert racks is not None
    assert (racks.kind, racks.racks, racks.uplink_bytes_per_s) == (FabricKind.TREE, 2, 25e6)


def test_each_case_has_the_machine_of_its_rig() -> None:
    plain = campaign_machine(CAMPAIGN, case_of("data ring 300-900-26"))
    assert set(plain.links) == {Tier.NETWORK}
    assert plain.compute is not None
    assert plain.compute.step_noise is None
    tiers = campaign_machine(CAMPAIGN, case_of("two tiers: data ring"))
    assert set(tiers.links) == set(Tier)
    noisy = campaign_machine(CAMPAIGN, case_of("noise lognormal:0.3: data ring"))
    assert noisy.compute is not None
    assert noisy.compute.step_noise == parse_noise("lognormal:0.3")


def test_the_forecast_does_not_lean_on_what_was_measured() -> None:
    record = case_of("pipeline 1f1b 256-320-320-320-320-320-320-320-26")
    machine = campaign_machine(CAMPAIGN, record)
    own = judge_case(record, machine)
    other = judge_case(
        record | {"step_time_s": 1.0, "repeats_s": [0.9, 1.1], "timed_step": {}}, machine
    )
    assert replace(other, measured_s=own.measured_s, spread=own.spread) == own
    assert other.spread == pytest.approx(0.2)


@pytest.mark.parametrize(
    "name", ["slow node: pipeline", "slow link: data ring", "noise lognormal:0.3: data ring"]
)
def test_what_is_told_of_a_rig_makes_it_slower(name: str) -> None:
    record = case_of(name)
    plain = record | {"slow": {}, "noise": None, "rig": record["rig"] | {"slow_links": []}}
    found, without = (
        judge_case(each, campaign_machine(CAMPAIGN, each)) for each in (record, plain)
    )
    assert found.forecast_s > 1.02 * without.forecast_s


def test_compute_is_given_so_that_messages_are_judged() -> None:
    record = case_of("data ring 300-900-26")
    machine = campaign_machine(CAMPAIGN, record)
    found = judge_case(record, machine, Engine.SOLVE)
    assert 0 < found.given_s < found.measured_s
    off_s = found.forecast_s - found.measured_s
    assert found.error_of_rest == pytest.approx(off_s / (found.measured_s - found.given_s))
