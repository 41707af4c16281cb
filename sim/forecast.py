"""The forecast: step time, speedup with its interval, breakdown and memory of one plan."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from calibration.machine import Machine, Tier
from exec.errors import MachineError
from exec.plan.checkpoint import plan_checkpoint
from exec.plan.collectives import expand
from exec.plan.epoch import num_trainers, plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.segment import Segment, programs_of
from exec.plan.strategy import (
    DIFFERING,
    ROUNDS,
    SERVERS,
    SYNCHRONOUS,
    UNORDERED,
    Strategy,
    strategy_of,
)
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel
from exec.program.program import Program, Role
from exec.program.timeline import Span
from exec.workload import Workload
from sim.balance import StageLoad, imbalance, stage_loads
from sim.bounds import bounds, is_asynchronous
from sim.costs import Costs
from sim.memory import Memory, memory_by_schedule, memory_nbytes, memory_of
from sim.placement import fits_memory, placed
from sim.result import StepTimes
from sim.simulate import simulate
from sim.solve import solve

INTERVAL_Z = 1.645  # 90 % of a normal distribution
SIGMA_PER_DOUBLING = 0.1
"""Assumed, not measured: the relative uncertainty that a collective gains with each doubling of
ranks beyond those it was measured on."""


EPOCH_SAMPLES = 20_000
"""An epoch unless said otherwise: that of the letters which the project draws."""
_TRACED_STEPS = 8
TURNS = 48
"""How many turns of each rank are simulated where ranks take turns in any order."""


class Engine(StrEnum):
    """Which reader answers."""

    SOLVE = "solve"
    SIMULATE = "simulate"


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A step's time, in parts that add up to it."""

    compute_s: float
    exposed_comm_s: float
    bubble_s: float
    wait_s: float
    overhead_s: float
    checkpoint_s: float = 0.0

    @property
    def total_s(self) -> float:
        """The step's time."""
        step_s = self.compute_s + self.exposed_comm_s + self.bubble_s + self.wait_s
        return step_s + self.overhead_s + self.checkpoint_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one plan will take; ``rel_sigma`` is the uncertainty of ``step_time_s``.

    A plan without a closed form, when solved, takes at least ``step_time_s`` and at most
    ``upper_s``. ``arrivals`` are the ranks whose gradients simulated servers took, in order.
    ``stages`` are those of a pipeline, and ``memory_by_schedule`` what the rank that holds most
    would hold under each schedule.
    """

    nodes: int
    mesh: Mesh
    options: PlanOptions
    global_batch: int
    engine: Engine
    breakdown: Breakdown
    memory: Memory
    rel_sigma: float
    extrapolated: tuple[str, ...]
    upper_s: float | None = None
    arrivals: tuple[int, ...] = ()
    stages: tuple[StageLoad, ...] = ()
    memory_by_schedule: tuple[tuple[Schedule, int], ...] = ()

    @property
    def memory_bytes(self) -> int:
        """What the rank that holds most allocates."""
        return self.memory.total_bytes

    @property
    def imbalance(self) -> float:
        """How many times longer the costliest stage computes than the mean."""
        return imbalance(self.stages)

    @property
    def ranks(self) -> int:
        """How many ranks it runs on."""
        return self.mesh.world_size

    @property
    def strategy(self) -> Strategy:
        """The plainest name of its mesh."""
        if self.options.strategy in SYNCHRONOUS:
            return strategy_of(self.mesh)
        return self.options.strategy

    @property
    def step_time_s(self) -> float:
        """The time of one step, in seconds, averaged where steps differ."""
        return self.breakdown.total_s

    def epoch_time_s(self, samples: int) -> float:
        """Return the time of an epoch of ``samples``; where steps are alike the last is whole."""
        steps = samples / self.global_batch
        if self.options.strategy not in DIFFERING:
            steps = math.ceil(steps)
        return steps * self.step_time_s

    @property
    def samples_per_s(self) -> float:
        """How many samples are trained on in a second."""
        return self.global_batch / self.step_time_s

    def speedup_over(self, serial: "Forecast") -> tuple[float, float, float]:
        """Return the speedup and its 90 % interval: the ratio of the samples trained in a second.

        The errors of the two forecasts are taken as independent, which is on the safe side: what
        they share cancels. No interval reaches above one per rank unless the forecast itself does,
        as where a smaller share fits into a cache.
        """
        speedup = self.samples_per_s / serial.samples_per_s
        if self.mesh == serial.mesh and self.global_batch == serial.global_batch:
            return speedup, speedup, speedup
        margin = math.exp(INTERVAL_Z * math.hypot(self.rel_sigma, serial.rel_sigma))
        least = speedup if self.upper_s is None else speedup * self.step_time_s / self.upper_s
        return speedup, least / margin, min(speedup * margin, max(speedup, self.ranks))


def forecast(
    machine: Machine,
    workload: Workload,
    mesh: Mesh,
    options: PlanOptions = PlanOptions(),
    *,
    ranks_per_node: int = 1,
    engine: Engine = Engine.SOLVE,
    epoch_samples: int = EPOCH_SAMPLES,
    slow: Sequence[tuple[int, float]] = (),
    shares_nodes: bool = False,
    checkpoint_every: int | None = None,
) -> Forecast:
    """Return what a step of ``workload`` on ``mesh`` will take on ``machine``.

    Where steps differ it is the mean over a round, or an epoch of ``epoch_samples``. ``slow`` are
    ranks that compute so many times longer; with ``shares_nodes`` servers have no nodes of their
    own. A checkpoint every ``checkpoint_every`` steps costs each of them its share.

    Raises:
        MachineError: the machine lacks a section that this plan needs, or its numbers make no sense.
    """
    options = placed(options, machine)
    guests = options.servers if shares_nodes and options.strategy in SERVERS else 0
    segments = cycle(workload, mesh, options, epoch_samples)
    costs = Costs(machine, mesh, ranks_per_node, slowness=dict(slow), guests=guests)
    costs.note_groups(options.algorithm)
    if options.device.has_streams and options.strategy in UNORDERED and not machine.copies:
        costs.extrapolated.add("staging through the host: not measured, taken as free")
    times = cycle_times(segments, workload.global_batch, costs, engine, options)
    overhead_s = costs.step_overhead_s
    wait_s = _wait_s(machine, mesh, options, segments, times.compute_s)
    checkpoint_s = 0.0
    if checkpoint_every is not None:
        program = plan_checkpoint(segments[-1].program, options.strategy)
        checkpoint_s = _read(engine, program, costs, False).step_time_s / checkpoint_every
    total_s = times.step_time_s + wait_s + overhead_s + checkpoint_s
    if not 0 < total_s < math.inf:
        raise MachineError(
            f"a step of {workload.net} must take a finite time above 0, got {total_s} s on machine "
            f"{machine.name}; its numbers are out of scale, make a new one with python -m calibration"
        )
    bubble_s = 0.0
    if mesh.pp > 1:
        free = replace(costs, is_comm_free=True, extrapolated=set())
        lanes = cycle_times(segments, workload.global_batch, free, Engine.SOLVE, replace(options, overlap=False), one_lane=False)  # fmt: skip
        bubble_s = max(0.0, lanes.step_time_s - times.compute_s)
    exposed_s = max(0.0, times.step_time_s - times.compute_s - bubble_s)
    programs = programs_of(segments)
    return Forecast(
        nodes=costs.fabric.num_nodes,
        mesh=mesh,
        options=options,
        global_batch=workload.global_batch,
        engine=engine,
        breakdown=Breakdown(times.compute_s, exposed_s, bubble_s, wait_s, overhead_s, checkpoint_s),
        memory=max(
            (memory_of(program, workload, options) for program in programs),
            key=lambda each: each.total_bytes,
        ),
        rel_sigma=_rel_sigma(machine, programs[0], costs, exposed_s, checkpoint_s, total_s),
        extrapolated=tuple(sorted(costs.extrapolated)),
        upper_s=None
        if times.upper_s is None
        else times.upper_s + wait_s + overhead_s + checkpoint_s,
        arrivals=times.arrivals,
        stages=stage_loads(programs[0], workload.network, options.stages, costs)
        if mesh.pp > 1
        else (),
        memory_by_schedule=tuple(memory_by_schedule(programs[0], workload, options).items())
        if mesh.pp > 1
        else (),
    )


def cycle(
    workload: Workload, mesh: Mesh, options: PlanOptions, epoch_samples: int
) -> tuple[Segment, ...]:
    """Return what a mean step is taken over: one step, or an epoch where steps differ."""
    samples = workload.global_batch
    if options.strategy in DIFFERING:
        samples = max(samples, epoch_samples)
    return plan_epoch(workload, mesh, options, samples)


def cycle_times(
    segments: Sequence[Segment], batch: int, costs: Costs, engine: Engine, options: PlanOptions,
    *, one_lane: bool | None = None,
) -> StepTimes:  # fmt: skip
    """Return the mean times of a batch of ``segments``; with ``one_lane`` only that reading."""
    repeats: dict[int, int] = defaultdict(int)
    for segment in segments:
        repeats[id(segment.program)] += segment.times
    total: StepTimes | None = None
    for program in programs_of(segments):
        if one_lane is None:
            times = step_times(program, costs, engine, options)
        else:
            times = _read(engine, program, costs, one_lane)
        repeated = times.times(repeats[id(program)])
        total = repeated if total is None else total.then(repeated)
    assert total is not None
    samples = sum(segment.samples * segment.times for segment in segments)
    return total.times(batch / samples)


def _wait_s(
    machine: Machine, mesh: Mesh, options: PlanOptions, segments: Sequence[Segment], compute_s: float
) -> float:  # fmt: skip
    """Return what a step waits for the slowest rank; noise averages out over the steps of a round."""
    if is_asynchronous(segments[0].program) or options.strategy is Strategy.HOGWILD:
        return 0.0
    steps = sum(segment.times for segment in segments)
    if options.strategy in ROUNDS:
        steps = min(options.average_every or steps, steps)
    return straggler_factor(num_trainers(mesh, options) * mesh.pp * mesh.tp) * noise_of(machine) * compute_s / math.sqrt(steps)  # fmt: skip


def solved_step_s(
    machine: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int,
    epoch_samples: int = EPOCH_SAMPLES,
) -> float:  # fmt: skip
    """Return the solved step time alone, without stragglers: what a search compares.

    It is infinite where the plan does not fit into a node's memory.
    """
    options = placed(options, machine)
    segments = cycle(workload, mesh, options, epoch_samples)
    costs = Costs(machine, mesh, ranks_per_node)
    nbytes = max(memory_nbytes(program, options) for program in programs_of(segments))
    if not fits_memory(machine, mesh, nbytes, ranks_per_node):
        return math.inf
    return cycle_times(segments, workload.global_batch, costs, Engine.SOLVE, options).step_time_s


def step_times(program: Program, costs: Costs, engine: Engine, options: PlanOptions) -> StepTimes:
    """Return the engine's times: between lanes that take turns and lanes that are independent.

    The machine's ``overlap_share`` says how far a transfer moves while its rank computes. At 0
    a rank does one thing at a time, at 1 its lanes are independent; between, times are
    interpolated.
    """
    share = costs.machine.overlap_share
    # Without a pipeline or overlap, no op of one lane can go on beside one of the other.
    if (program.mesh.pp == 1 and not options.overlap) or share == 1.0:
        return _read(engine, program, costs, False)
    taking_turns = _read(engine, program, costs, True)
    if share == 0.0:
        return taking_turns
    free_lanes = _read(engine, program, costs, False)
    blended_s = share * free_lanes.step_time_s + (1.0 - share) * taking_turns.step_time_s
    return replace(free_lanes, step_time_s=blended_s)


def _read(engine: Engine, program: Program, costs: Costs, one_lane: bool) -> StepTimes:
    if is_asynchronous(program):
        return bounds(program, costs) if engine is Engine.SOLVE else _simulate_long(program, costs, one_lane)  # fmt: skip
    if engine is Engine.SOLVE:
        return solve(program, costs, one_lane=one_lane)
    return simulate(expand(program), costs, one_lane=one_lane)


def _simulate_long(program: Program, costs: Costs, one_lane: bool) -> StepTimes:
    """Return the times of ``program`` from its first turns; the others go on like them.

    The machine's noise makes ranks meet in ever other orders, as they do.
    """
    jitter = noise_of(costs.machine)
    if program.tickets:
        fewer = program.with_tickets(TURNS * len(program.trainers))
        times = simulate(fewer, costs, one_lane=one_lane, jitter=jitter)
        arrivals = times.arrivals
        return replace(times.times(program.tickets / fewer.tickets), arrivals=arrivals)
    roles = tuple(replace(role, times=TURNS) for role in program.roles)
    many = replace(program, roles=roles)
    return simulate(many, costs, one_lane=one_lane, jitter=jitter).times(1.0 / TURNS)


def simulated_spans(machine: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int) -> tuple[Span, ...]:  # fmt: skip
    """Return the spans of a simulated step, or of the steps of a round, for a trace."""
    takes_turns = machine.overlap_share < 0.5
    options = placed(options, machine)
    costs = Costs(machine, mesh, ranks_per_node)
    spans: list[Span] = []
    now_s = 0.0
    for segment in cycle(workload, mesh, options, _TRACED_STEPS * workload.global_batch):
        program = expand(segment.program.with_tickets(_TRACED_STEPS * mesh.dp))
        for _ in range(min(segment.times, _TRACED_STEPS)):
            times = simulate(program, costs, one_lane=takes_turns, keeps_spans=True)
            spans += [replace(each, start_s=each.start_s + now_s, end_s=each.end_s + now_s) for each in times.spans]  # fmt: skip
            now_s += times.step_time_s
    return tuple(spans)


def straggler_factor(ranks: int) -> float:
    """Return how many standard deviations the slowest of ``ranks`` is expected above the mean.

    The expected maximum of p normal draws, in the approximation of G. Blom, "Statistical
    Estimates and Transformed Beta-Variables", Wiley 1958: the normal quantile at
    (p - 3/8) / (p + 1/4).
    """
    if ranks == 1:
        return 0.0
    return statistics.NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def noise_of(machine: Machine) -> float:
    """Return the relative standard deviation of a rank's steps."""
    return machine.compute.noise_rel_sigma if machine.compute else 0.0


def _rel_sigma(
    machine: Machine,
    program: Program,
    costs: Costs,
    exposed_s: float,
    checkpoint_s: float,
    total_s: float,
) -> float:
    """Return the relative standard deviation of a step's time.

    Kernel models err independently of each other, and so do links; each counts by its share.
    """
    assert machine.compute is not None
    by_kernel: dict[Kernel, float] = defaultdict(float)
    busiest = max(program.roles, key=lambda role: _compute_s(role, costs))
    for op in busiest.ops:
        if isinstance(op, Compute):
            by_kernel[op.kernel] += costs.compute_s(op, busiest.nbytes)
    variance_s2 = sum(
        (time_s * machine.compute.kernels[kernel].rel_sigma) ** 2
        for kernel, time_s in by_kernel.items()
    )
    if machine.storage is not None:
        variance_s2 += (checkpoint_s * machine.storage.rel_sigma) ** 2
    return math.sqrt(variance_s2 + (exposed_s * link_sigma(machine, costs)) ** 2) / total_s


def link_sigma(machine: Machine, costs: Costs) -> float:
    """Return the relative uncertainty of communication: the fit's, and that of more ranks."""
    ranks = costs.mesh.world_size
    if ranks == 1:
        return 0.0
    tier = Tier.NODE if costs.fabric.num_nodes == 1 else Tier.NETWORK
    if tier not in machine.links:
        return 0.0
    link = machine.links[tier]
    doublings = max(0.0, math.log2(ranks / link.allreduce_ranks.high))
    return math.hypot(max(link.message.rel_sigma, link.allreduce.rel_sigma, costs.collective_sigma), SIGMA_PER_DOUBLING * doublings)  # fmt: skip


def _compute_s(role: Role, costs: Costs) -> float:
    return sum(costs.compute_s(op, role.nbytes) for op in role.ops if isinstance(op, Compute))
