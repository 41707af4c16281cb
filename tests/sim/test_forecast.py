"""Laws of the forecast: a number with an interval, a breakdown, memory, and what it stands on."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calibration.machine import KernelModel, Machine, Range, Tier
from exec.data.noise import noise_dataset
from exec.errors import MachineError
from exec.network.network import mlp
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.plan.window import uses_window
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Kernel
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload
from sim.costs import Costs
from sim.engine import READERS
from sim.forecast import (
    Engine,
    Forecast,
    forecast,
    memory_nbytes,
    simulated_spans,
    solved_step_s,
    step_times,
)  # fmt: skip
from sim.intervals import INTERVAL_Z, SIGMA_PER_DOUBLING
from sim.jitter import expected_max
from sim.solve import solve
from tests.agreement.hand_made import compute, curve, kernel_model, link, machine, machines
from tests.agreement.readers import ROUND
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
SAME = 1e-9  # roundings only
DRAWS = 1024  # of a pipeline on few ranks
WORKLOAD = Workload(mlp(20, 10, 6), 64, 8)


def noisy(noise: float = 0.02, overhead_s: float = 0.003, kernel_sigma: float = 0.1) -> Machine:
    """Return the hand-made machine with spread, a cost per step and less certain kernels."""
    kernels = {
        kernel: kernel_model(kernel, 1e-3, 1e-6).model_copy(update={"rel_sigma": kernel_sigma})
        for kernel in Kernel
    }
    return machine(
        compute=compute(kernels=kernels, noise_rel_sigma=noise, step_overhead_s=overhead_s)
    )


@settings(SETTINGS, max_examples=100)
@given(
    case=cases(),
    on=machines(),
    engine=st.sampled_from(READERS),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@example(case=Case.of("8-8-8-8-8", 8, Mesh(1, 4, 2)), on=ROUND, engine=Engine.SOLVE, share=0.0)
def test_the_parts_of_a_step_add_up_to_what_the_engine_answers(
    case: Case, on: Machine, engine: Engine, share: float
) -> None:
    section = on.compute.model_copy(update={"noise_rel_sigma": 0.05, "step_overhead_s": 1e-4})
    on = on.model_copy(update={"overlap_share": share, "compute": section})
    noise = section.step_noise
    per_node = case.mesh.world_size if uses_window(case.mesh, case.options) else 1
    answer = forecast(on, case.workload, case.mesh, case.options, engine=engine, ranks_per_node=per_node)  # fmt: skip
    parts = answer.breakdown
    assert (
        min(parts.compute_s, parts.exposed_comm_s, parts.bubble_s, parts.wait_s, parts.overhead_s)
        >= 0
    )
    program, costs = (
        plan_step(case.workload, case.mesh, case.options),
        Costs(on, case.mesh, per_node),
    )
    engine_s = step_times(program, costs, engine, case.options).step_time_s
    rest_s = answer.step_time_s - parts.wait_s - parts.overhead_s
    assert rest_s == pytest.approx(engine_s, rel=SAME)
    assert parts.overhead_s == 1e-4
    # A step grows with its slowest factor at most. A pipeline's stages are a chain, and its mean is drawn.
    loads_s = [load.time_s for load in answer.stages] if case.mesh.pp > 1 else [parts.compute_s]
    count = answer.options.num_microbatches if case.mesh.pp > 1 else 1
    chain_s = (sum(loads_s) + (count - 1) * max(loads_s)) / count
    most = (
        expected_max(noise, answer.ranks)
        - 1.0
        + (4 * 0.05 / DRAWS**0.5 if case.mesh.pp > 1 else 0.0)
    )
    assert parts.wait_s <= most * chain_s * (1 + SAME)


@SETTINGS
@given(case=cases(range(2, 9)), share=st.floats(0, 1))
def test_overlap_interpolates_between_lanes_that_take_turns_and_free_ones(
    case: Case, share: float
) -> None:
    def step_s(of: float) -> float:
        return solved_step_s(machine(overlap_share=of), case.workload, case.mesh, case.options, 1)

    turns_s, free_s = step_s(0.0), step_s(1.0)
    assert free_s <= turns_s * (1 + SAME)
    assert step_s(share) == pytest.approx(share * free_s + (1 - share) * turns_s, rel=SAME)


def test_overlap_pays_where_the_machine_can() -> None:
    options = PlanOptions(overlap=True, bucket_nbytes=1)
    step_s = [
        solved_step_s(machine(overlap_share=s), WORKLOAD, Mesh(4), options, 1)
        for s in (0.0, 0.5, 1.0)
    ]
    assert step_s[0] > step_s[1] > step_s[2]


def test_the_serial_forecast_has_a_speedup_of_exactly_one() -> None:
    serial = forecast(noisy(), WORKLOAD, Mesh())
    assert serial.speedup_over(serial) == (1.0, 1.0, 1.0)
    assert (
        serial.breakdown.exposed_comm_s
        == serial.breakdown.bubble_s
        == serial.breakdown.wait_s
        == 0.0
    )


@pytest.mark.parametrize("mesh", [Mesh(2), Mesh(pp=2), Mesh(tp=2), Mesh(2, 2, 2)], ids=str)
def test_the_interval_holds_the_speedup_and_widens_with_uncertainty(mesh: Mesh) -> None:
    widths = []
    for sigma in (0.0, 0.05, 0.2):
        serial, many = (forecast(noisy(kernel_sigma=sigma), WORKLOAD, m) for m in (Mesh(), mesh))
        speedup, low, high = many.speedup_over(serial)
        assert low < speedup < high
        # The two errors are independent.
        up = [math.log(each.interval_s[1] / each.step_time_s) for each in (many, serial)]
        down = [math.log(each.step_time_s / each.interval_s[0]) for each in (many, serial)]
        assert math.log(speedup / low) == pytest.approx(math.hypot(up[0], down[1]), rel=SAME)
        assert math.log(high / speedup) == pytest.approx(math.hypot(down[0], up[1]), rel=SAME)
        widths.append(high / low)
    assert widths == sorted(set(widths))


def test_the_uncertainty_of_one_kernel_is_its_share_of_the_step() -> None:
    # Only the linear kernel is uncertain: 20 % of what it takes.
    kernels = {
        kernel: kernel_model(kernel, 1e-3, 0.0).model_copy(update={"rel_sigma": 0.0})
        for kernel in Kernel
    }
    kernels[Kernel.LINEAR] = kernels[Kernel.LINEAR].model_copy(update={"rel_sigma": 0.2})
    serial = forecast(machine(compute=compute(kernels=kernels)), WORKLOAD, Mesh())
    # Ops of 1 ms: load, linear, sigmoid, linear, loss, backward, sigmoid backward, backward, update.
    assert serial.step_time_s == pytest.approx(9e-3, rel=SAME)
    # What all kernels share and what is its own have half of the variance each.
    for z, seconds in zip((-INTERVAL_Z, INTERVAL_Z), serial.interval_s, strict=True):
        assert seconds - 9e-3 == pytest.approx(2e-3 * math.sqrt(2) * math.expm1(z * 0.2 * math.sqrt(0.5)), rel=SAME)  # fmt: skip


def test_collectives_on_more_ranks_than_measured_are_less_certain_with_each_doubling() -> None:
    few = Range(low=2, high=4)
    on = machine(links={Tier.NETWORK: link(1.0, 0.0, few)})  # nothing but communication counts
    four, sixteen = (forecast(on, WORKLOAD, Mesh(ranks)) for ranks in (4, 16))
    for each, sigma in (
        (four, 0.05),
        (sixteen, math.hypot(0.05, 2 * SIGMA_PER_DOUBLING)),  # the curve's, and two doublings
    ):
        comm_s = each.breakdown.exposed_comm_s
        for z, seconds in zip((-INTERVAL_Z, INTERVAL_Z), each.interval_s, strict=True):
            # Kernels add less than 1 %.
            assert seconds - each.step_time_s == pytest.approx(comm_s * math.expm1(z * sigma), rel=0.01)  # fmt: skip


@SETTINGS
@given(case=cases(), on=machines(), noises=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_more_noise_is_never_faster(case: Case, on: Machine, noises: tuple[float, float]) -> None:
    def step_s(noise: float) -> float:
        section = on.compute.model_copy(update={"noise_rel_sigma": noise})
        return forecast(on.model_copy(update={"compute": section}), case.workload, case.mesh, case.options).step_time_s  # fmt: skip

    assert step_s(min(noises)) <= step_s(max(noises)) * (1 + SAME)


@pytest.mark.parametrize("engine", READERS)
@pytest.mark.parametrize("mesh, options", [
    (Mesh(), PlanOptions()),
    (Mesh(3), PlanOptions(bucket_nbytes=1)),
    (Mesh(4), PlanOptions(bucket_nbytes=1, algorithm=Algorithm.RING)),
    (Mesh(5), PlanOptions(algorithm=Algorithm.HALVING_DOUBLING)),
    (Mesh(6), PlanOptions(algorithm=Algorithm.BINOMIAL_TREE)),
    (Mesh(6), PlanOptions(algorithm=Algorithm.HIERARCHICAL, ranks_per_node=3)),
    (Mesh(pp=3), PlanOptions(4, Schedule.GPIPE)),
    (Mesh(pp=3), PlanOptions(4, Schedule.ONE_F_ONE_B)),
    (Mesh(tp=3), PlanOptions(2)),
    (Mesh(tp=4), PlanOptions(algorithm=Algorithm.RECURSIVE_DOUBLING)),
    (Mesh(2, 2, 2), PlanOptions(3, algorithm=Algorithm.RING)),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("momentum", [False, True])
def test_memory_is_what_the_executor_allocates(
    mesh: Mesh, options: PlanOptions, momentum: bool, engine: Engine
) -> None:
    workload = Workload(mlp(13, 11, 10, 7), 26, 8, momentum)
    dataset = noise_dataset(13, 7, workload.global_batch, 1, seed=0)
    plan = TrainingPlan(workload, mesh, options, "float64", momentum=0.9 * momentum)
    sessions = run_threads(mesh.world_size, lambda wire: Session(plan, dataset, wire))
    held = [session.buffers.nbytes for session in sessions]
    assert forecast(ROUND, workload, mesh, options, engine=engine).memory_bytes == max(held)
    # And not only of the rank that holds most: every role says what its ranks hold.
    for rank, session in enumerate(sessions):
        scratch = session.buffers.arrays["scratch"].nbytes
        assert session.program.role_of(rank).nbytes == held[rank] - scratch
    assert memory_nbytes(Case(workload, mesh, options).program, options) == max(held)


def bounded(**ranges: Range) -> Machine:
    """Return the hand-made machine, fitted on the ``ranges`` only."""
    kernels: dict[Kernel, KernelModel] = {
        kernel: kernel_model(kernel, 1e-3, 1e-6).model_copy(
            update={name: ranges[name] for name in ("n", "k", "m") if name in ranges}
        )
        for kernel in Kernel
    }
    whole = Range(low=0, high=1e18)
    line = curve((1e18, 1e-3, 1e-6), nbytes=ranges.get("nbytes", whole))
    found = link(0.0, 0.0, ranges.get("ranks", whole)).model_copy(
        update={"message": line, "allreduce": line}
    )
    return machine(compute=compute(kernels=kernels), links={Tier.NETWORK: found})


PARAMETERS = 10 * 21 + 6 * 11
FLAGGED = [
    (bounded(n=Range(low=0, high=32)), Mesh(2), PlanOptions(), []),
    (bounded(n=Range(low=0, high=31)), Mesh(2), PlanOptions(), ["linear: 32x20x10"]),
    (bounded(k=Range(low=0, high=20)), Mesh(2), PlanOptions(), []),
    (bounded(k=Range(low=0, high=19)), Mesh(2), PlanOptions(), ["linear: 32x20x10"]),
    (bounded(m=Range(low=0, high=PARAMETERS)), Mesh(2), PlanOptions(), []),
    (bounded(m=Range(low=0, high=PARAMETERS - 1)), Mesh(2), PlanOptions(), [f"update: 0x0x{PARAMETERS}"]),
    (bounded(nbytes=Range(low=8, high=8 * PARAMETERS)), Mesh(2), PlanOptions(), []),
    (bounded(nbytes=Range(low=8, high=8 * PARAMETERS - 1)), Mesh(2), PlanOptions(),
     [f"allreduce (network): {8 * PARAMETERS} bytes"]),
    (bounded(nbytes=Range(low=8, high=1)), Mesh(2), PlanOptions(algorithm=Algorithm.RING),
     [f"message (network): {4 * PARAMETERS} bytes"]),
    (bounded(ranks=Range(low=2, high=4)), Mesh(4), PlanOptions(), []),
    (bounded(ranks=Range(low=2, high=4)), Mesh(8), PlanOptions(), ["ranks (network): 8"]),
    (bounded(ranks=Range(low=2, high=4)), Mesh(8), PlanOptions(algorithm=Algorithm.RING), ["ranks (network): 8"]),
    (bounded(ranks=Range(low=2, high=4)), Mesh(3), PlanOptions(algorithm=Algorithm.RECURSIVE_DOUBLING),
     ["recursive_doubling by an approximate closed form: 3 ranks"]),
]  # fmt: skip


@pytest.mark.parametrize("on, mesh, options, expected", FLAGGED)
def test_flags_appear_exactly_beyond_what_was_measured(
    on: Machine, mesh: Mesh, options: PlanOptions, expected: list[str]
) -> None:
    flags = forecast(on, WORKLOAD, mesh, options).extrapolated
    assert bool(flags) == bool(expected)
    assert set(expected) <= set(flags)


def test_more_ranks_than_cores_are_flagged_and_slow_each_other_down() -> None:
    on = machine(compute=compute(cores_per_node=4, busy_slowdown=1.6))

    def compute_s(ranks: int, ranks_per_node: int) -> Forecast:
        return forecast(
            on, Workload(mlp(20, 10, 6), 8 * ranks, 8), Mesh(ranks), ranks_per_node=ranks_per_node
        )

    alone = compute_s(1, 1).breakdown.compute_s
    # From 1 with one rank to 1.6 with all four cores busy, in a line; beyond, cores are shared.
    for ranks, slowdown in ((1, 1.0), (2, 1.2), (3, 1.4), (4, 1.6), (8, 3.2)):
        answer = compute_s(ranks, ranks)
        assert answer.breakdown.compute_s == pytest.approx(slowdown * alone, rel=SAME)
        assert any("oversubscribed" in flag for flag in answer.extrapolated) == (ranks > 4)
    assert compute_s(8, 1).breakdown.compute_s == pytest.approx(alone, rel=SAME)


@pytest.mark.parametrize("engine", READERS)
def test_a_missing_part_of_the_machine_names_its_remedy(engine: Engine) -> None:
    with pytest.raises(MachineError, match=r"round says nothing of compute; .* local\+round"):
        forecast(machine(compute=None), WORKLOAD, Mesh(2), engine=engine)
    with pytest.raises(
        MachineError, match=r"no link between nodes; .*mpiexec.* round\+ethernet-cluster"
    ):
        forecast(machine(links={}), WORKLOAD, Mesh(2), engine=engine)
    with pytest.raises(MachineError, match="no link between the ranks of a node"):
        forecast(
            machine(links={Tier.NETWORK: link(1e-3, 1e-6)}),
            WORKLOAD,
            Mesh(2),
            ranks_per_node=2,
            engine=engine,
        )
    # One rank needs no link.
    assert forecast(machine(links={}), WORKLOAD, Mesh(), engine=engine).step_time_s > 0


@SETTINGS
@given(case=cases())
def test_nobody_speeds_up_by_more_than_its_ranks_without_a_cache(case: Case) -> None:
    per_node = case.mesh.world_size if uses_window(case.mesh, case.options) else 1
    serial, many = (
        forecast(ROUND, case.workload, mesh, case.options, ranks_per_node=per_node)
        for mesh in (Mesh(), case.mesh)
    )
    assert many.speedup_over(serial)[0] <= case.mesh.world_size * (1 + SAME)


@pytest.mark.parametrize("engine", READERS)
@pytest.mark.parametrize("coefficient", [0.0, 1e308])
def test_a_machine_on_which_a_step_takes_no_time_or_for_ever_is_refused(
    coefficient: float, engine: Engine
) -> None:
    on = machine(compute=compute(coefficient, coefficient))
    with pytest.raises(MachineError, match="must take a finite time above 0"):
        forecast(on, WORKLOAD, Mesh(), engine=engine)


def test_a_trace_takes_as_long_as_the_simulated_step() -> None:
    options = PlanOptions(2)
    spans = simulated_spans(ROUND, WORKLOAD, Mesh(2, 2), options, 1)
    answer = forecast(ROUND, WORKLOAD, Mesh(2, 2), options, engine=Engine.SIMULATE)
    assert max(span.end_s for span in spans) == pytest.approx(answer.step_time_s, rel=SAME)
    assert {span.rank for span in spans} == set(range(4))


def test_a_rank_that_is_perfectly_connected_needs_no_link() -> None:
    costs = Costs(machine(links={}), Mesh(4), 1, is_comm_free=True)
    assert costs.message(100, Tier.NETWORK) == (0.0, 0.0)
    assert costs.accumulate_s(100, 0) == 0.0


def averaging(every: int, noise: float) -> Forecast:
    """Return the forecast of weights averaged ``every`` so many of 10 steps, the last one short."""
    on = machine(compute=compute(noise_rel_sigma=noise))
    options = PlanOptions(strategy=Strategy.AVERAGING, average_every=every)
    return forecast(on, Workload(mlp(20, 10, 5), 32, 8), Mesh(4), options, epoch_samples=9 * 32 + 8)


@pytest.mark.parametrize("every", [1, 4, 0])
def test_an_epoch_of_unlike_steps_is_the_sum_of_its_programs(every: int) -> None:
    found, samples = averaging(every, 0.0), 9 * 32 + 8
    segments = plan_epoch(Workload(mlp(20, 10, 5), 32, 8), Mesh(4), found.options, samples)
    costs = Costs(machine(compute=compute(noise_rel_sigma=0.0)), Mesh(4), 1)
    parts_s = [each.times * solve(each.program, costs, one_lane=False).step_time_s for each in segments]  # fmt: skip
    overhead_s = found.breakdown.overhead_s * samples / 32
    assert found.epoch_time_s(samples) == pytest.approx(sum(parts_s) + overhead_s, rel=1e-9)


@pytest.mark.parametrize("every", [4, 9])
def test_noise_averages_out_over_the_steps_between_averages(every: int) -> None:
    waits = [averaging(each, 0.05).breakdown.wait_s for each in (1, every)]
    assert waits[0] > 0
    assert waits[1] == pytest.approx(waits[0] / every**0.5, rel=0.02)
