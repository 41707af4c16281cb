"""The check of forecasts against runs: which cases, and what it says of one."""

import pytest

from calibration.ladder import bounds_for, ladder
from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.plan.epoch import check_plan
from exec.plan.strategy import Strategy, mesh_of
from sim.check import _check, check
from sim.check_cases import Case, NetKind, cases_of
from tests.agreement.hand_made import machine


@pytest.mark.parametrize("kind", NetKind)
def test_every_case_is_legal_and_none_was_fitted(kind: NetKind) -> None:
    seen = {(each.network, each.global_batch) for each in ladder(160)}
    for case, ranks in cases_of(kind, 2):
        check_plan(case.workload, mesh_of(case.strategy, ranks), case.options)
        assert (case.workload.network, case.batch) not in seen


@pytest.mark.parametrize("device", [DeviceKind.GPU, DeviceKind.EMULATED])
@pytest.mark.parametrize("kind", NetKind)
def test_a_device_is_checked_on_shapes_that_its_ladder_lacks(
    device: DeviceKind, kind: NetKind
) -> None:
    seen = {(each.network, each.global_batch) for each in ladder(160, bounds=bounds_for(device))}
    found = cases_of(kind, 2, device)
    assert len(found) >= 1
    for case, ranks in found:
        check_plan(case.workload, mesh_of(case.strategy, ranks), case.options)
        assert (case.workload.network, case.batch) not in seen


def test_a_machine_of_another_device_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must be of device gpu, got ethernet-cluster of cpu"):
        check(machine="ethernet-cluster", device=DeviceKind.GPU)


def test_the_kinds_are_all_cases_and_one_rank_has_no_parallel_ones() -> None:
    both = [*cases_of(NetKind.MLP, 2), *cases_of(NetKind.CONV, 2)]
    assert sorted(map(str, both)) == sorted(map(str, cases_of(NetKind.ALL, 2)))
    assert {case.strategy for case, _ in cases_of(NetKind.ALL, 1)} == {Strategy.SERIAL}
    nets = {case.net for case, _ in cases_of(NetKind.CONV, 2)}
    assert nets == {"cnn", "resnet18-small"}


def test_a_run_allocates_what_was_forecast() -> None:
    record = _check(machine(), Case("cnn:1x16x8:26", 2048), 1, 1)
    assert record["memory_bytes"] == record["allocated_bytes"]
    # The process has the arrays, less what it was larger before, and what the libraries need.
    assert 0.5 < record["peak_growth_bytes"] / record["allocated_bytes"] < 2
    assert record["measured_s"] > 0
    assert record["stages"] is None
