"""Where the closed form is exact, the simulator finds the same time.

It is exact where the parts of a plan are equal, collectives start together, and no two messages
meet at a port. Off powers of two, folded ranks and ragged trees have no such form: see
``test_bounds``.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.machine import Machine
from exec.network.modules import Add, AvgPool, BatchNorm2d, Conv2d, Linear, MaxPool, ReLU
from exec.network.network import Network, build, mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Shape,
    Wait,
)  # fmt: skip
from exec.program.peers import Part
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.costs import Costs
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import ALPHA_S, BETA_S_PER_BYTE, links, machine, machines
from tests.agreement.readers import ROUND, SAME, Plan, even_widths
from tests.exec.random_networks import small_networks

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
POWERS = (2, 4, 8, 16)
ANY_SIZE = (2, 3, 5, 6, 7, 12)
WIDTHS = (64, 8, 48, 16, 40)  # layers of unequal cost, so stages of unequal cost


def assert_same(plan: Plan, on: Machine = ROUND) -> None:
    assert plan.simulated_s(on) == pytest.approx(plan.solved_s(on), rel=SAME), plan


@SETTINGS
@given(on=machines(), momentum=st.booleans(), batch=st.integers(1, 64))
def test_serial_is_the_sum_of_its_ops(on: Machine, momentum: bool, batch: int) -> None:
    plan = Plan(Workload(mlp(20, 10, 5), batch, 8, momentum), Mesh())
    assert_same(plan, on)
    assert plan.solved_s(on) == pytest.approx(sum(plan.busy_s(on)), rel=SAME)


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("ranks", POWERS)
def test_data_parallel_on_a_power_of_two_agrees(
    ranks: int, algorithm: Algorithm, overlap: bool, one_lane: bool
) -> None:
    options = PlanOptions(bucket_nbytes=1, overlap=overlap, algorithm=algorithm)
    widths = even_widths(Mesh(ranks), 3)
    assert_same(Plan(Workload(mlp(*widths), 3 * ranks, 8), Mesh(ranks), options, one_lane))


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("algorithm", [Algorithm.LIBRARY, Algorithm.RING])
@pytest.mark.parametrize("ranks", ANY_SIZE)
def test_rings_and_the_library_agree_on_any_number_of_ranks(
    ranks: int, algorithm: Algorithm, overlap: bool, one_lane: bool
) -> None:
    options = PlanOptions(bucket_nbytes=1, overlap=overlap, algorithm=algorithm)
    widths = even_widths(Mesh(ranks), 3)
    assert_same(Plan(Workload(mlp(*widths), 3 * ranks, 8), Mesh(ranks), options, one_lane))


@SETTINGS
@given(
    on=machines(),
    ranks=st.sampled_from((3, *POWERS)),
    overlap=st.booleans(),
    bucket=st.sampled_from([1, 1 << 20]),
)
def test_the_library_agrees_on_any_machine_even_with_uneven_replicas(
    on: Machine, ranks: int, overlap: bool, bucket: int
) -> None:
    options = PlanOptions(bucket_nbytes=bucket, overlap=overlap)
    assert_same(Plan(Workload(mlp(11, 7, 5), 3 * ranks + 1, 8), Mesh(ranks), options), on)


@SETTINGS
@given(
    on=machines(), nodes=st.integers(1, 5), node_size=st.integers(1, 5), real=st.sampled_from([None, 1, 25]),
    overlap=st.booleans(), bucket=st.sampled_from([1, 1 << 20]), one_lane=st.booleans(),
)  # fmt: skip
def test_two_levels_agree_on_any_machine_for_any_numbers_of_nodes_and_ranks_on_them(
    on: Machine, nodes: int, node_size: int, real: int | None, overlap: bool, bucket: int, one_lane: bool
) -> None:  # fmt: skip
    # The nodes of the plan are those of the machine, or it has one for each rank, or one for all.
    mesh = Mesh(nodes * node_size)
    options = PlanOptions(1, Schedule.GPIPE, bucket, overlap, Algorithm.HIERARCHICAL,
                          ranks_per_node=node_size)  # fmt: skip
    program = plan_step(Workload(mlp(*even_widths(mesh, 2)), mesh.dp, 8), mesh, options)
    costs = Costs(on, mesh, real or node_size)
    simulated = simulate(expand(program), costs, one_lane=one_lane).step_time_s
    assert simulated == pytest.approx(solve(program, costs, one_lane=one_lane).step_time_s, rel=SAME)  # fmt: skip


@SETTINGS
@given(
    on=machines(), ranks=st.sampled_from(POWERS), algorithm=st.sampled_from(Algorithm), overlap=st.booleans(),
    one_lane=st.booleans(),
)  # fmt: skip
def test_data_parallel_agrees_on_any_machine(
    on: Machine, ranks: int, algorithm: Algorithm, overlap: bool, one_lane: bool
) -> None:
    options = PlanOptions(bucket_nbytes=1, overlap=overlap, algorithm=algorithm)
    widths = even_widths(Mesh(ranks), 3)
    assert_same(Plan(Workload(mlp(*widths), 2 * ranks, 8), Mesh(ranks), options, one_lane), on)


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_tensor_parallel_of_equal_shards_agrees(
    ranks: int, algorithm: Algorithm, num_layers: int, one_lane: bool
) -> None:
    mesh = Mesh(tp=ranks)
    widths = even_widths(mesh, num_layers)
    assert_same(
        Plan(Workload(mlp(*widths), 16, 8), mesh, PlanOptions(2, algorithm=algorithm), one_lane)
    )


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("microbatches", range(1, 9))
def test_pipelines_of_up_to_two_stages_agree(
    stages: int, schedule: Schedule, microbatches: int, one_lane: bool
) -> None:
    for batch in (microbatches, 3 * microbatches, 3 * microbatches + 1):
        options = PlanOptions(microbatches, schedule)
        assert_same(Plan(Workload(mlp(*WIDTHS), batch, 8), Mesh(pp=stages), options, one_lane))


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("stages", [3, 4])
@pytest.mark.parametrize("microbatches", range(1, 9))
def test_gpipe_of_any_number_of_stages_agrees(
    stages: int, microbatches: int, one_lane: bool
) -> None:
    # All messages go forward, then all go backward: no two ever meet at a port.
    for batch in (microbatches, 3 * microbatches, 3 * microbatches + 1):
        options = PlanOptions(microbatches, Schedule.GPIPE)
        assert_same(Plan(Workload(mlp(*WIDTHS), batch, 8), Mesh(pp=stages), options, one_lane))


@SETTINGS
@given(
    on=machines(), stages=st.integers(1, 4), microbatches=st.integers(1, 8), rows=st.integers(1, 4),
    one_lane=st.booleans(),
)  # fmt: skip
def test_gpipe_agrees_on_any_machine(
    on: Machine, stages: int, microbatches: int, rows: int, one_lane: bool
) -> None:
    options = PlanOptions(microbatches, Schedule.GPIPE)
    assert_same(
        Plan(Workload(mlp(*WIDTHS), rows * microbatches, 8), Mesh(pp=stages), options, one_lane), on
    )


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "mesh", [Mesh(2, 2, 1), Mesh(2, 1, 2), Mesh(1, 2, 2), Mesh(2, 2, 2), Mesh(4, 2, 2)], ids=str
)
@pytest.mark.parametrize("schedule", Schedule)
def test_hybrids_of_two_stages_with_the_library_agree(
    mesh: Mesh, schedule: Schedule, overlap: bool, one_lane: bool
) -> None:
    for microbatches in (1, 2, 3):
        batch = 2 * mesh.dp * microbatches
        options = PlanOptions(microbatches, schedule, 1, overlap)
        assert_same(Plan(Workload(mlp(24, 16, 24, 16, 8), batch, 8), mesh, options, one_lane))


@pytest.mark.parametrize(
    "algorithm", [Algorithm.RING, Algorithm.RECURSIVE_DOUBLING, Algorithm.HALVING_DOUBLING]
)
@pytest.mark.parametrize("mesh", [Mesh(2, 1, 2), Mesh(4, 1, 2), Mesh(2, 1, 4)], ids=str)
def test_hybrids_without_stages_agree_for_expanded_algorithms_too(
    mesh: Mesh, algorithm: Algorithm
) -> None:
    widths = even_widths(mesh, 3)
    for overlap in (False, True):
        options = PlanOptions(2, bucket_nbytes=1, overlap=overlap, algorithm=algorithm)
        plan = Plan(Workload(mlp(*widths), 4 * mesh.dp, 8), mesh, options, one_lane=True)
        assert_same(plan)


def even_network(mesh: Mesh) -> Network:
    """Return a residual network whose shards and gradients all ranks divide evenly."""
    unit = mesh.tp * mesh.dp
    conv = Conv2d(2 * unit, (3, 3), padding=(1, 1), has_bias=False)
    return build("even", (2, 6, 6), [
        ("conv1", conv, ()), ("bn1", BatchNorm2d(), ()), ("relu1", ReLU(), ()), ("pool", MaxPool((2, 2), (2, 2)), ()),
        ("conv2", conv, ()), ("bn2", BatchNorm2d(), ()), ("relu2", ReLU(), ()),
        ("conv3", conv, ()), ("bn3", BatchNorm2d(), ()), ("add", Add(), ("bn3", "pool")), ("relu3", ReLU(), ()),
        ("average", AvgPool(), ()), ("fc1", Linear(4 * unit), ()), ("relu4", ReLU(), ()), ("fc2", Linear(2 * unit), ()),
    ])  # fmt: skip


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("mesh", [Mesh(), Mesh(2), Mesh(8), Mesh(tp=2), Mesh(tp=4)], ids=str)
def test_convolutional_networks_agree_on_replicas_and_on_shards(
    mesh: Mesh, algorithm: Algorithm, sync: bool, one_lane: bool
) -> None:
    options = PlanOptions(2, bucket_nbytes=1, overlap=one_lane, algorithm=algorithm, sync_batchnorm=sync)  # fmt: skip
    assert_same(Plan(Workload(even_network(mesh), 4 * mesh.dp, 8), mesh, options, one_lane))


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize(
    ("mesh", "schedule", "microbatches"),
    [
        (Mesh(pp=2), Schedule.ONE_F_ONE_B, 5), (Mesh(2, 2), Schedule.ONE_F_ONE_B, 3), (Mesh(1, 2, 2), Schedule.GPIPE, 3),
        (Mesh(2, 2, 2), Schedule.ONE_F_ONE_B, 2), (Mesh(pp=4), Schedule.GPIPE, 4),
    ],
    ids=str,
)  # fmt: skip
def test_pipelines_of_convolutions_agree(
    mesh: Mesh, schedule: Schedule, microbatches: int, one_lane: bool
) -> None:
    options = PlanOptions(microbatches, schedule, 1)
    workload = Workload(even_network(mesh), 2 * mesh.dp * microbatches, 8)
    assert_same(Plan(workload, mesh, options, one_lane))


@SETTINGS
@given(on=machines(), network=small_networks(), ranks=st.sampled_from((1, 2, 3, 5)), sync=st.booleans())  # fmt: skip
def test_any_network_agrees_on_any_machine_with_the_library(
    on: Machine, network: Network, ranks: int, sync: bool
) -> None:
    options = PlanOptions(bucket_nbytes=200, overlap=True, sync_batchnorm=sync)
    assert_same(Plan(Workload(network, 2 * ranks, 8), Mesh(ranks), options), on)


@pytest.mark.parametrize("one_lane", [False, True])
@pytest.mark.parametrize("mesh", [Mesh(tp=2), Mesh(tp=4), Mesh(2, 1, 2)], ids=str)
def test_an_exchanged_batch_agrees(mesh: Mesh, one_lane: bool) -> None:
    options = PlanOptions(2, bucket_nbytes=1, strategy=Strategy.KRIZHEVSKY, sync_batchnorm=True)
    assert_same(Plan(Workload(even_network(mesh), 2 * mesh.world_size, 8), mesh, options, one_lane))


@pytest.mark.parametrize("algorithm", Algorithm)
def test_ranks_of_one_node_agree_as_those_of_many_do(algorithm: Algorithm) -> None:
    mesh, options = Mesh(8), PlanOptions(algorithm=algorithm)
    program = plan_step(Workload(mlp(*even_widths(mesh, 2)), 8, 8), mesh, options)
    costs = Costs(ROUND, mesh, 8)
    simulated = simulate(expand(program), costs, one_lane=False).step_time_s
    assert simulated == pytest.approx(solve(program, costs, one_lane=False).step_time_s, rel=SAME)


@pytest.mark.parametrize("one_lane", [False, True])
def test_a_collective_of_unequal_ranks_begins_with_the_last_of_them(one_lane: bool) -> None:
    # One rank is slow before the all-reduce and the other after it: 4 + 4 multiply-adds in a row.
    def works(name: str, before: int, after: int, span: range) -> Role:
        def linear(units: int, layer: int) -> Compute:
            return Compute(Kernel.LINEAR, layer, 0, Shape(1, 1, units), 0, 0)

        first, last = linear(before, 0), linear(after, 1)
        summed = Collective("sum", CollectiveKind.ALLREDUCE, Part("grad", 0, 100), Axis.DP)
        ops = (first, Wait(Lane.COMM, first.id), summed, Wait(Lane.COMPUTE, "sum"), last)
        return Role(name, span, range(1), range(1), ops)

    roles = (works("early", 4000, 1000, range(1)), works("late", 1000, 4000, range(1, 2)))
    program = Program(Mesh(2), 8, roles)
    # A fixed millisecond and 4 ms of compute, twice; between them 1 ms and 800 bytes at 1 MB/s.
    expected_s = 5e-3 + 1.8e-3 + 5e-3
    for read in (simulate, solve):
        times = read(program, Costs(ROUND, program.mesh, 1), one_lane=one_lane)
        assert times.step_time_s == pytest.approx(expected_s, rel=SAME)


def test_messages_of_one_rank_take_turns_at_its_port_in_both_engines() -> None:
    # Transfers of 48 ms and compute of 4 ms or less: the link is what the first stage waits for.
    options = PlanOptions(6, Schedule.GPIPE)
    plan = Plan(Workload(mlp(2, 100, 2), 60, 8), Mesh(pp=2), options)
    on = machine(links=links(ALPHA_S, 6 * BETA_S_PER_BYTE))
    assert plan.solved_s(on) > 12 * 48e-3
    assert_same(plan, on)
