"""Laws of stages balanced on a machine: their times are those of the program, and no cut is better."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.network.network import Network
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.stages import stage_nodes
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.balance import calibrated, imbalance, node_times_s, stage_loads
from sim.costs import Costs
from tests.agreement.hand_made import machine, machines
from tests.exec.random_networks import small_networks

SAME = 1e-9  # sums in another order
SETTINGS = settings(derandomize=True, deadline=None, max_examples=20)


def costliest_s(costs: Costs, workload: Workload, options: PlanOptions) -> float:
    """Return what the costliest stage of the real program computes."""
    program = plan_step(workload, costs.mesh, options)
    return max(load.time_s for load in stage_loads(program, workload.network, options.stages, costs))  # fmt: skip


@SETTINGS
@given(
    network=small_networks(), on=machines(), dp=st.sampled_from([1, 2]), count=st.sampled_from([1, 2, 3]),
    schedule=st.sampled_from(Schedule), has_momentum=st.booleans(),
)  # fmt: skip
def test_the_times_of_a_stage_s_nodes_add_up_to_what_its_rank_computes(
    network: Network, on: Machine, dp: int, count: int, schedule: Schedule, has_momentum: bool
) -> None:
    workload = Workload(network, 4 * dp * count, 8, has_momentum)
    mesh = Mesh(dp, min(2, len(network.stage_starts)))
    costs, options = Costs(on, mesh, 1), PlanOptions(count, schedule)
    times_s = node_times_s(costs, workload, options)
    loads = stage_loads(plan_step(workload, mesh, options), network, (), costs)
    for nodes, load in zip(stage_nodes(network, mesh.pp), loads, strict=True):
        assert load.first_layer == network.nodes[nodes.start].name
        assert load.num_layers == len(nodes)
        assert count * sum(times_s[nodes.start : nodes.stop]) == pytest.approx(
            load.time_s, rel=SAME
        )


@pytest.mark.parametrize("pp", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 4])
def test_no_cut_is_better_than_the_calibrated_one(pp: int, count: int) -> None:
    # The times of this machine do not depend on what a rank holds, so one round finds the best.
    workload = Workload(parse_net("resnet18-small"), 16, 8)
    costs = Costs(machine(), Mesh(pp=pp), 1)
    options = calibrated(costs, workload, PlanOptions(count))
    times_s = node_times_s(costs, workload, options)

    def worst_s(cuts: tuple[int, ...]) -> float:
        return max(sum(times_s[nodes.start : nodes.stop]) for nodes in stage_nodes(workload.network, pp, cuts))  # fmt: skip

    every = itertools.combinations(workload.network.stage_starts[1:], pp - 1)
    assert worst_s(options.stages) == pytest.approx(min(map(worst_s, every)), rel=SAME)


@SETTINGS
@given(on=machines(), pp=st.sampled_from([2, 3]), count=st.sampled_from([1, 2]))
def test_calibrated_stages_are_never_worse_than_those_of_equal_flops(
    on: Machine, pp: int, count: int
) -> None:
    workload = Workload(parse_net("svhn-cnn"), 8, 8)
    costs, options = Costs(on, Mesh(pp=pp), 1), PlanOptions(count)
    cut = calibrated(costs, workload, options)
    ours, theirs = costliest_s(costs, workload, cut), costliest_s(costs, workload, options)
    assert ours <= theirs * (1 + SAME)


def test_given_cuts_stay_and_one_stage_needs_none() -> None:
    workload = Workload(parse_net("cnn"), 8, 8)
    given_cuts = PlanOptions(stages=(7,))
    assert calibrated(Costs(machine(), Mesh(pp=2), 1), workload, given_cuts) is given_cuts
    assert calibrated(Costs(machine(), Mesh(2), 1), workload, PlanOptions()) == PlanOptions()


def test_imbalance_is_the_costliest_stage_over_the_mean() -> None:
    workload = Workload(parse_net("128-64-64-26"), 8, 8)
    costs = Costs(machine(), Mesh(pp=2), 1)
    loads = stage_loads(plan_step(workload, costs.mesh), workload.network, (), costs)
    one, three = replace(loads[0], time_s=1.0), replace(loads[0], time_s=3.0)
    assert imbalance([one, three]) == 1.5
    assert imbalance([one, one, one]) == 1.0
    assert imbalance([]) == 1.0
