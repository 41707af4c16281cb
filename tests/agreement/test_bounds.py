"""Where the two engines differ, by how much, and what holds of both everywhere.

They differ for three reasons. The closed form leaves out messages that meet on a link, which makes
it too fast. It counts the largest chunk of every step, and has a collective begin when the last
rank of its group arrives, which makes it too slow. And off powers of two a binomial tree is
counted as if it were full, which makes it too slow as well.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Collective, CollectiveKind
from exec.program.peers import Part
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.costs import Costs
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import (
    ALPHA_S,
    BETA_S_PER_BYTE,
    GAMMA_S,
    links,
    machine,
    machines,
)  # fmt: skip
from tests.agreement.readers import ROUND, SAME, Plan, even_plans, even_widths
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=80)
ITEMSIZE = 8
OFF_POWERS = (3, 5, 6, 7, 9, 11, 12, 13)
FULL_STEPS = (
    Algorithm.LIBRARY,
    Algorithm.RING,
    Algorithm.RECURSIVE_DOUBLING,
    Algorithm.HALVING_DOUBLING,
)


def at_most(low_s: float, high_s: float) -> bool:
    """Say whether ``low_s <= high_s``, but for roundings."""
    return low_s <= high_s * (1 + SAME)


@SETTINGS
@given(plan=even_plans(FULL_STEPS, (1, 2, 4, 8)), on=machines())
def test_the_simulator_is_never_faster_than_the_closed_form_of_equal_parts(
    plan: Plan, on: Machine
) -> None:
    # What is left is contention, and that only costs time.
    assert at_most(plan.solved_s(on), plan.simulated_s(on))


@SETTINGS
@given(plan=even_plans((Algorithm.LIBRARY, Algorithm.RING), (3, 5, 6, 9)), on=machines())
def test_nor_are_rings_and_the_library_faster_off_powers_of_two(plan: Plan, on: Machine) -> None:
    assert at_most(plan.solved_s(on), plan.simulated_s(on))


@SETTINGS
@given(
    on=machines(), stages=st.integers(3, 4), microbatches=st.integers(1, 8), rows=st.integers(1, 4),
    widths=st.tuples(*[st.integers(2, 64)] * 5), one_lane=st.booleans(),
)  # fmt: skip
def test_1f1b_of_three_and_more_stages_shares_links_at_most_by_two(
    on: Machine, stages: int, microbatches: int, rows: int, widths: tuple[int, ...], one_lane: bool
) -> None:
    # A middle stage takes activations and gradients over one link: two flows at most share each link,
    # so none has less than half of it, and a machine of half the bandwidth bounds it from above.
    options = PlanOptions(microbatches, Schedule.ONE_F_ONE_B)
    plan = Plan(
        Workload(mlp(*widths), rows * microbatches, ITEMSIZE), Mesh(pp=stages), options, one_lane
    )
    simulated_s = plan.simulated_s(on)
    assert at_most(plan.solved_s(on), simulated_s)
    assert at_most(simulated_s, plan.solved_s(half_the_bandwidth(on)))


def half_the_bandwidth(of: Machine) -> Machine:
    """Return ``of`` with every transfer taking twice as long, and every latency as long as before."""

    def slowed(link: object) -> object:
        message = link.message  # type: ignore[attr-defined]
        segments = tuple(
            s.model_copy(update={"beta_s_per_byte": 2 * s.beta_s_per_byte})
            for s in message.segments
        )
        return link.model_copy(
            update={"message": message.model_copy(update={"segments": segments})}
        )  # type: ignore[attr-defined]

    return of.model_copy(update={"links": {tier: slowed(link) for tier, link in of.links.items()}})


def test_1f1b_of_four_stages_does_meet_contention() -> None:
    # Else the law above would say nothing. Links are slow, so that messages are under way for long.
    options = PlanOptions(6, Schedule.ONE_F_ONE_B)
    plan = Plan(Workload(mlp(48, 16, 64, 16, 48), 24, ITEMSIZE), Mesh(pp=4), options)
    on = machine(links=links(ALPHA_S, 40 * BETA_S_PER_BYTE))
    assert plan.simulated_s(on) > 1.1 * plan.solved_s(on)


@pytest.mark.parametrize("algorithm", [Algorithm.RECURSIVE_DOUBLING, Algorithm.HALVING_DOUBLING])
@pytest.mark.parametrize("ranks", OFF_POWERS)
def test_folded_doubling_meets_at_most_one_transfer_more_in_each_of_its_steps(
    ranks: int, algorithm: Algorithm
) -> None:
    # While a rank takes what a left-over rank folds onto it, its partner's message is already there.
    plan = one_bucket(ranks, algorithm)
    transfer_s = BETA_S_PER_BYTE * ITEMSIZE * plan.workload.num_parameters
    steps = ranks.bit_length() - 1
    assert plan.solved_s(ROUND) * 1.01 < plan.simulated_s(ROUND)
    assert at_most(plan.simulated_s(ROUND), plan.solved_s(ROUND) + steps * transfer_s)


@pytest.mark.parametrize("ranks", OFF_POWERS)
def test_a_ragged_tree_lies_between_those_of_the_powers_of_two_around_it(ranks: int) -> None:
    # The closed form of both: log2 p rounds up. The simulator knows which branches are missing.
    below, above = 1 << (ranks.bit_length() - 1), 1 << ranks.bit_length()
    plan = one_bucket(ranks, Algorithm.BINOMIAL_TREE)
    full = {p: collective_s(p, plan.workload.num_parameters) for p in (below, above)}
    simulated_s = plan.simulated_s(ROUND) - max(plan.busy_s(ROUND))
    assert at_most(full[below], simulated_s)
    assert at_most(simulated_s, full[above])
    assert plan.solved_s(ROUND) - max(plan.busy_s(ROUND)) == pytest.approx(full[above], rel=SAME)


def collective_s(ranks: int, elements: int) -> float:
    """Return ``log2 p (2 (alpha + beta n) + gamma n)``, with the fixed cost of a sum."""
    message_s = ALPHA_S + BETA_S_PER_BYTE * ITEMSIZE * elements
    return (ranks.bit_length() - 1) * (2 * message_s + 1e-3 + GAMMA_S * elements)


def one_bucket(ranks: int, algorithm: Algorithm) -> Plan:
    """Return data parallelism of equal replicas with a single all-reduce."""
    widths = even_widths(Mesh(ranks), 2)
    return Plan(
        Workload(mlp(*widths), 2 * ranks, ITEMSIZE), Mesh(ranks), PlanOptions(algorithm=algorithm)
    )


@pytest.mark.parametrize("ranks", [*OFF_POWERS, 2, 4, 8])
def test_uneven_chunks_cost_the_closed_form_at_most_one_element_a_step(ranks: int) -> None:
    options = PlanOptions(bucket_nbytes=1 << 30, algorithm=Algorithm.RING)
    for width in range(20, 30):
        plan = Plan(Workload(mlp(width, 31, 7), 2 * ranks, ITEMSIZE), Mesh(ranks), options)
        slack_s = (ranks - 1) * (2 * BETA_S_PER_BYTE * ITEMSIZE + GAMMA_S)
        assert at_most(plan.simulated_s(ROUND), plan.solved_s(ROUND))
        assert at_most(plan.solved_s(ROUND), plan.simulated_s(ROUND) + slack_s)


@pytest.mark.parametrize("nodes, node_size", [(2, 2), (3, 2), (2, 3), (4, 3), (5, 2), (3, 4)])
def test_two_levels_of_uneven_parts_lie_about_between_the_even_ones_around_them(
    nodes: int, node_size: int
) -> None:
    ranks = nodes * node_size

    def program_of(elements: int) -> Program:
        op = Collective(
            "sum", CollectiveKind.ALLREDUCE, Part("grad", 0, elements), Axis.DP, Algorithm.HIERARCHICAL,
            node_size=node_size,
        )  # fmt: skip
        return Program(
            Mesh(ranks), ITEMSIZE, (Role("all", range(ranks), range(1), range(1), (op,)),)
        )

    def both_s(elements: int) -> tuple[float, float]:
        costs, program = Costs(ROUND, Mesh(ranks), node_size), program_of(elements)
        simulated = simulate(expand(program), costs, one_lane=False)
        return simulated.step_time_s, solve(program, costs, one_lane=False).step_time_s

    for elements in range(1, 3 * ranks):
        simulated_s, solved_s = both_s(elements)
        assert at_most(simulated_s, solved_s)
        # Not at most: unequal messages leave a shared link one by one, so that those behind them start
        # earlier. Measured, not derived: 0.8 % and less.
        assert at_most(both_s(elements // ranks * ranks)[0] * 0.99, simulated_s)
        assert at_most(solved_s, both_s(-(-elements // ranks) * ranks)[0])


def lanes(case: Case, *, one_lane: bool) -> Plan:
    """Return ``case`` as a plan."""
    return Plan(case.workload, case.mesh, case.options, one_lane)


@SETTINGS
@given(case=cases(), on=machines(), one_lane=st.booleans())
def test_no_engine_beats_its_slowest_rank_or_the_shared_work(
    case: Case, on: Machine, one_lane: bool
) -> None:
    plan = lanes(case, one_lane=one_lane)
    busy_s = plan.busy_s(on)
    least_s = max(*busy_s, sum(busy_s) / len(busy_s), plan.compute_alone_s(on))
    assert at_most(least_s, plan.simulated_s(on))
    assert at_most(least_s, plan.solved_s(on))


@SETTINGS
@given(case=cases(), on=machines(), one_lane=st.booleans())
def test_simulated_time_is_at_most_that_of_one_op_after_another(
    case: Case, on: Machine, one_lane: bool
) -> None:
    plan = lanes(case, one_lane=one_lane)
    assert at_most(plan.simulated_s(on), plan.one_after_another_s(on))


@SETTINGS
@given(case=cases(), on=machines())
def test_independent_lanes_are_never_slower_than_lanes_that_take_turns(
    case: Case, on: Machine
) -> None:
    one, two = (lanes(case, one_lane=one_lane) for one_lane in (True, False))
    assert at_most(two.solved_s(on), one.solved_s(on))


@SETTINGS
@given(
    case=cases(range(2, 13)), one_lane=st.booleans(), alpha_s=st.sampled_from([0.0, 1e-4, 1e-2]),
    beta=st.sampled_from([0.0, 1e-7, 1e-5]),
)  # fmt: skip
def test_the_engines_are_within_a_factor_of_two_on_any_plan(
    case: Case, one_lane: bool, alpha_s: float, beta: float
) -> None:
    # Measured, not derived: of 12,000 plans the farthest were 0.78 and 1.48.
    plan, on = lanes(case, one_lane=one_lane), machine(links=links(alpha_s, beta))
    assert 0.5 <= plan.simulated_s(on) / plan.solved_s(on) <= 2.0


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("ranks_per_node", [2, 4, 8])
@pytest.mark.parametrize(
    "mesh", [Mesh(8), Mesh(4, 1, 2), Mesh(2, 2, 2), Mesh(2, 1, 4), Mesh(16)], ids=str
)
def test_the_closed_form_of_ranks_that_share_a_node_is_mostly_on_the_safe_side(
    mesh: Mesh, ranks_per_node: int, algorithm: Algorithm
) -> None:
    # The closed form has all ranks of a node send through its port in every step that leaves the
    # node, at once. Measured, not derived: in a tree only one of them does, and 16 ranks on 2 nodes
    # take 0.3 of the closed form; the other algorithms take 0.91 of it and more.
    options = PlanOptions(2, algorithm=algorithm, ranks_per_node=ranks_per_node)
    plan = Plan(
        Workload(mlp(*even_widths(mesh, 2)), 8 * mesh.dp, ITEMSIZE), mesh, options, one_lane=True
    )
    costs = Costs(ROUND, mesh, ranks_per_node)
    simulated_s = simulate(expand(plan.program), costs, one_lane=True).step_time_s
    ratio = simulated_s / solve(plan.program, costs, one_lane=True).step_time_s
    assert 0.85 <= ratio <= 1.1
