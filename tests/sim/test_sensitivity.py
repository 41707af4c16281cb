"""What is worse never makes a step faster; what does nothing is named."""

import pytest
from hypothesis import given, settings

from calibration.find import find_machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.sensitivity import WORSE, Effect, sensitivity
from tests.exec.random_plans import Case, cases

MACHINES = ("ethernet-cluster", "infiniband-cluster", "h100-node")


def effects(machine: str, workload: Workload, mesh: Mesh, ranks_per_node: int, options: PlanOptions = PlanOptions()) -> dict[str, Effect]:  # fmt: skip
    """Return the effects by knob."""
    found = sensitivity(find_machine(machine), workload, mesh, options, ranks_per_node)
    return {effect.knob: effect for effect in found}


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_that_is_worse_makes_any_plan_faster(machine: str) -> None:
    @settings(max_examples=15)
    @given(cases())
    def keep(case: Case) -> None:
        for ranks_per_node in (1, 2):
            found = effects(machine, case.workload, case.mesh, ranks_per_node, case.options)
            assert min(effect.ratio for effect in found.values()) > 1 - 1e-9, case
            # No knob alone can cost more than the tenth by which it is worse, but for the neighbours,
            # whose slow-down multiplies noise too.
            assert max(effect.ratio for effect in found.values()) < WORSE**2, case

    keep()


def test_one_rank_does_not_lean_on_links() -> None:
    found = effects("ethernet-cluster", Workload(parse_net("128-100-26"), 64), Mesh(), 1)
    links = [effect for knob, effect in found.items() if "tier" in knob]
    assert links
    assert all(effect.is_inert for effect in links)
    assert not found["time of matrix products and convolutions"].is_inert


def test_data_parallel_ranks_of_several_nodes_lean_on_the_network_s_all_reduce() -> None:
    found = effects("ethernet-cluster", Workload(parse_net("784-512-512-26"), 4096), Mesh(dp=16), 1)
    assert found["transfer time of the all-reduce of tier network"].ratio > 1.01
    assert found["latency of the message of tier network"].is_inert
    assert found["transfer time of the all-reduce of tier node"].is_inert


def test_the_largest_effect_comes_first() -> None:
    found = sensitivity(
        find_machine("ethernet-cluster"), Workload(parse_net("784-512-512-26"), 512), Mesh(dp=4),
        PlanOptions(), 1,
    )  # fmt: skip
    ratios = [effect.ratio for effect in found]
    assert ratios == sorted(ratios, reverse=True)


def test_a_slow_rank_counts_in_what_a_plan_leans_on() -> None:
    found = {}
    for slow in ((), ((1, 8.0),)):
        effects = sensitivity(
            find_machine("ethernet-cluster"), Workload(parse_net("784-512-512-26"), 512), Mesh(dp=4),
            PlanOptions(), 1, slow=slow,
        )  # fmt: skip
        found[slow] = {effect.knob: effect.ratio for effect in effects}
    even, uneven = found.values()
    knob = "time of matrix products and convolutions"
    assert uneven[knob] > even[knob] + 0.01
    knob = "transfer time of the all-reduce of tier network"
    assert uneven[knob] < even[knob]
