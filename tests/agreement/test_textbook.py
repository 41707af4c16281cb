"""Both engines against formulas written out from their papers.

p ranks, n bytes, a message of b bytes costs alpha + beta b, adding b bytes costs gamma b; m
microbatches, s stages. Every expected value is a formula of this file, not of the package.
"""

import itertools
import math
from collections.abc import Callable

import pytest

from calibration.machine import Machine
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Kernel
from exec.workload import Workload
from sim.costs import Costs
from sim.forecast import forecast
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import NODE_SHARE, compute, kernel_model, links, machine
from tests.agreement.readers import SAME, Plan

ITEMSIZE = 8
ALPHA, BETA, GAMMA = 2e-3, 5e-7, 1e-8  # s, s per byte, s per byte
# Sums without a fixed cost, as in the papers; GAMMA is per byte, the kernel's cost per element.
_KERNELS = {kernel: kernel_model(kernel, 1e-3, 1e-6) for kernel in Kernel} | {
    Kernel.ACCUMULATE: kernel_model(Kernel.ACCUMULATE, 0.0, GAMMA * ITEMSIZE)
}
PAPER = machine(compute=compute(kernels=_KERNELS), links=links(ALPHA, BETA))
Formula = Callable[[int, int], float]


def ring(p: int, n: int) -> float:
    # P. Patarasuk and X. Yuan, J. Parallel Distrib. Comput. 69 (2009) 117-124: 2 (p - 1) steps of
    # n / p bytes, the first p - 1 of which add what came.
    return 2 * (p - 1) * (ALPHA + BETA * n / p) + (p - 1) * GAMMA * n / p


def recursive_doubling(p: int, n: int) -> float:
    # Thakur, Rabenseifner and Gropp, Int. J. High Perform. Comput. Appl. 19 (2005) 49-66, section 4.4.
    return math.log2(p) * (ALPHA + BETA * n + GAMMA * n)


def halving_doubling(p: int, n: int) -> float:
    # Ibid.: Rabenseifner's algorithm, 2 lg p alpha + 2 (p - 1) / p n beta + (p - 1) / p n gamma.
    return 2 * math.log2(p) * ALPHA + (p - 1) / p * n * (2 * BETA + GAMMA)


def binomial_tree(p: int, n: int) -> float:
    # Ibid.: a reduce and a broadcast, each of lg p steps of the whole buffer.
    return math.log2(p) * (2 * (ALPHA + BETA * n) + GAMMA * n)


def library(p: int, n: int) -> float:
    # The least latency of Thakur et al. and the least traffic of Patarasuk and Yuan; the constants
    # are what two ranks take, in which the library's sums are contained.
    return math.ceil(math.log2(p)) * ALPHA + 2 * (p - 1) / p * BETA * n


def comm_s(plan: Plan, read: Callable[[Machine], float]) -> float:
    """Return what of a step of equal replicas is communication."""
    return read(PAPER) - plan.busy_s(PAPER)[0]


@pytest.mark.parametrize("formula, ranks", [
    *((ring, p) for p in (2, 3, 4, 5, 8)), *((library, p) for p in (2, 3, 4, 5, 8)),
    *((formula, p) for formula in (recursive_doubling, halving_doubling, binomial_tree) for p in (2, 4, 8)),
], ids=lambda value: getattr(value, "__name__", str(value)))  # fmt: skip
def test_an_allreduce_takes_what_its_paper_says(formula: Formula, ranks: int) -> None:
    options = PlanOptions(bucket_nbytes=1 << 30, algorithm=Algorithm(formula.__name__))
    # 239 x 120 weights and 120 biases: 28,800 numbers, which 2, 3, 4, 5 and 8 divide.
    plan = Plan(Workload(mlp(239, 120), 2 * ranks, ITEMSIZE), Mesh(ranks), options)
    expected_s = formula(ranks, 28_800 * ITEMSIZE)
    assert comm_s(plan, plan.solved_s) == pytest.approx(expected_s, rel=SAME)
    assert comm_s(plan, plan.simulated_s) == pytest.approx(expected_s, rel=SAME)


@pytest.mark.parametrize(
    "nodes, node_size", [(2, 2), (3, 2), (2, 3), (4, 3), (5, 2), (4, 1), (1, 4)]
)
@pytest.mark.parametrize("beta", [1e-8, BETA])
def test_a_hierarchical_allreduce_takes_its_three_rings(
    nodes: int, node_size: int, beta: float
) -> None:
    # H. Mikami et al., arXiv:1811.05233: reduce-scatter and all-gather in the node take
    # node_size - 1 steps each, the all-reduce between nodes 2 (nodes - 1). In each of those the
    # ranks of a node send through its link at once, and each has its share of the bandwidth.
    on = machine(compute=compute(kernels=_KERNELS), links=links(ALPHA, beta))
    mesh = Mesh(nodes * node_size)
    options = PlanOptions(1, bucket_nbytes=1 << 30, algorithm=Algorithm.HIERARCHICAL,
                          ranks_per_node=node_size, shares_memory=False)  # fmt: skip
    program = plan_step(Workload(mlp(239, 120), 2 * mesh.dp, ITEMSIZE), mesh, options)
    n = 28_800 * ITEMSIZE
    part, share = n / mesh.dp, n / node_size
    inside_s = NODE_SHARE * (ALPHA + beta * share)
    expected_s = (node_size - 1) * (2 * inside_s + GAMMA * share)
    expected_s += (nodes - 1) * (2 * (ALPHA + node_size * beta * part) + GAMMA * part)
    busy_s = Plan(Workload(mlp(239, 120), 2 * mesh.dp, ITEMSIZE), mesh, options).busy_s(on)[0]
    for read, each in ((solve, program), (simulate, expand(program))):
        took_s = read(each, Costs(on, mesh, node_size), one_lane=False).step_time_s
        assert took_s - busy_s == pytest.approx(expected_s, rel=SAME)


@pytest.mark.parametrize("ranks", [2, 3, 4, 6])
def test_an_allgather_is_a_ring_of_one_round(ranks: int) -> None:
    # Thakur et al., section 4.1: (p - 1) (alpha + beta n / p). A single column-split layer gathers
    # its outputs, 12 units of 4 samples, and has no other communication.
    mesh, options = Mesh(tp=ranks), PlanOptions(algorithm=Algorithm.RING)
    plan = Plan(Workload(mlp(10, 12), 4, ITEMSIZE), mesh, options)
    expected_s = (ranks - 1) * (ALPHA + BETA * 4 * 12 * ITEMSIZE / ranks)
    assert comm_s(plan, plan.solved_s) == pytest.approx(expected_s, rel=SAME)
    assert comm_s(plan, plan.simulated_s) == pytest.approx(expected_s, rel=SAME)


def test_a_message_between_two_stages_is_hockneys_line() -> None:
    # R. Hockney, Parallel Computing 20 (1994) 389-398. One microbatch of 4 samples through 2 stages:
    # 6 activations go forward and their gradients come back, nothing overlaps but the second stage's
    # loading of labels, and the first stage updates last.
    plan = Plan(Workload(mlp(10, 6, 3), 4, ITEMSIZE), Mesh(pp=2))
    on = machine(compute=compute(1e-3, 0.0), links=links(ALPHA, BETA))
    # First stage: load, linear, sigmoid; second: linear, loss, backward; first: 2 backward, update.
    expected_s = 3e-3 + 3e-3 + 3e-3 + 2 * (ALPHA + BETA * 4 * 6 * ITEMSIZE)
    assert plan.solved_s(on) == pytest.approx(expected_s, rel=SAME)
    assert plan.simulated_s(on) == pytest.approx(expected_s, rel=SAME)


# A pipeline whose stages only multiply: what the formulas below are about.
FORWARD_S, BACKWARD_S = 1e-3, 2.5e-3
_EQUAL = {kernel: kernel_model(kernel, 0.0, 0.0) for kernel in Kernel} | {
    Kernel.LINEAR: kernel_model(Kernel.LINEAR, FORWARD_S, 0.0),
    Kernel.LINEAR_BACKWARD: kernel_model(Kernel.LINEAR_BACKWARD, BACKWARD_S, 0.0),
    Kernel.LINEAR_BACKWARD_FIRST: kernel_model(Kernel.LINEAR_BACKWARD_FIRST, BACKWARD_S, 0.0),
}
_PER_FLOP = {kernel: kernel_model(kernel, 0.0, 0.0) for kernel in Kernel} | {
    Kernel.LINEAR: kernel_model(Kernel.LINEAR, 0.0, 1e-6),
    Kernel.LINEAR_BACKWARD: kernel_model(Kernel.LINEAR_BACKWARD, 0.0, 2e-6),
    Kernel.LINEAR_BACKWARD_FIRST: kernel_model(Kernel.LINEAR_BACKWARD_FIRST, 0.0, 1e-6),
}


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("microbatches", range(1, 9))
def test_the_bubble_of_equal_stages_is_s_minus_1_in_m_plus_s_minus_1(
    stages: int, microbatches: int, schedule: Schedule
) -> None:
    # Y. Huang et al., "GPipe", NeurIPS 2019, section 2.3: the bubble is (K - 1) / (M + K - 1) of a
    # step; D. Narayanan et al., SC 2021, section 2.2: 1F1B has the same bubble and less memory.
    on = machine(compute=compute(kernels=_EQUAL), links=links(0.0, 0.0))
    options = PlanOptions(microbatches, schedule)
    workload = Workload(mlp(*[8] * (stages + 1)), microbatches, ITEMSIZE)
    plan = Plan(workload, Mesh(pp=stages), options)
    step_s = (microbatches + stages - 1) * (FORWARD_S + BACKWARD_S)
    assert plan.solved_s(on) == pytest.approx(step_s, rel=SAME)
    assert plan.simulated_s(on) == pytest.approx(step_s, rel=SAME)
    answer = forecast(on, workload, plan.mesh, options)
    bubble_fraction = (stages - 1) / (microbatches + stages - 1)
    # An absolute tolerance where the bubble is 0.
    assert answer.breakdown.bubble_s / answer.step_time_s == pytest.approx(
        bubble_fraction, rel=SAME, abs=SAME
    )


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("microbatches", range(1, 9))
def test_gpipe_is_a_flow_shop_of_equal_jobs_forward_and_another_backward(
    stages: int, microbatches: int
) -> None:
    # Equal jobs in a flow shop take the sum of the machines' times, and the slowest machine's again
    # for every job but one: S. M. Johnson, "Optimal two- and three-stage production schedules with
    # setup times included", Naval Research Logistics Quarterly 1 (1954) 61-68, for equal jobs.
    widths = (24, 8, 40, 16, 32)[: stages + 1]  # one layer a stage, of unequal cost
    rows = 3
    forward_s = [1e-6 * rows * k * m for k, m in itertools.pairwise(widths)]
    backward_s = [(2 if i else 1) * time_s for i, time_s in enumerate(forward_s)]
    step_s = sum(
        sum(times_s) + (microbatches - 1) * max(times_s) for times_s in (forward_s, backward_s)
    )
    on = machine(compute=compute(kernels=_PER_FLOP), links=links(0.0, 0.0))
    options = PlanOptions(microbatches, Schedule.GPIPE)
    plan = Plan(Workload(mlp(*widths), rows * microbatches, ITEMSIZE), Mesh(pp=stages), options)
    assert plan.solved_s(on) == pytest.approx(step_s, rel=SAME)
    assert plan.simulated_s(on) == pytest.approx(step_s, rel=SAME)
