"""The forecast: step time, speedup with its interval, breakdown and memory of one plan."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from calibration.machine import Machine
from exec.errors import MachineError
from exec.noise import Array, Noise
from exec.plan.checkpoint import plan_checkpoint
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.segment import Segment, programs_of
from exec.plan.strategy import (
    DIFFERING,
    LOCKSTEP,
    ROUNDS,
    SERVERS,
    SYNCHRONOUS,
    UNORDERED,
    Strategy,
    strategy_of,
)
from exec.plan.window import check_window
from exec.plan.writer import most_nbytes
from exec.program.mesh import Mesh
from exec.program.ops import Send
from exec.program.program import Program, Role
from exec.program.timeline import Span
from exec.workload import Workload
from sim.balance import StageLoad, imbalance, stage_loads
from sim.bounds import bounds, is_asynchronous
from sim.costs import Costs
from sim.engine import Engine as Engine  # noqa: PLC0414  # others know it from here
from sim.intervals import delta_s, uncertain_of
from sim.jitter import paces
from sim.memory import Memory, memory_by_schedule, memory_nbytes, memory_of
from sim.placement import fits_memory, placed
from sim.replicas import Draws, drawn_interval_s
from sim.result import StepTimes
from sim.solve import solve, solve_each
from sim.waits import Pipeline, meeting_wait_s, pipeline_wait_s, server_wait_s
from sim.work import tally

EPOCH_SAMPLES = 20_000
"""An epoch unless said otherwise: that of the letters which the project draws."""
_TRACED_STEPS = 8
TURNS = 48
"""How many turns of each rank are simulated where ranks take turns in any order."""


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
    """What one plan will take; ``interval_s`` is the 90 % interval of ``step_time_s``.

    A plan without a closed form, when solved, takes at least ``step_time_s`` and at most
    ``upper_s``. ``arrivals`` are the ranks whose gradients simulated servers took, in order.
    ``replicas_s`` are steps with noise as they were drawn. ``stages`` are those of a pipeline, and
    ``memory_by_schedule`` what the rank that holds most would hold under each schedule.
    ``simulated`` says what told the times, if they are simulated.
    """

    nodes: int
    mesh: Mesh
    options: PlanOptions
    global_batch: int
    engine: Engine
    breakdown: Breakdown
    memory: Memory
    interval_s: tuple[float, float]
    extrapolated: tuple[str, ...]
    upper_s: float | None = None
    arrivals: tuple[int, ...] = ()
    replicas_s: tuple[float, ...] = ()
    stages: tuple[StageLoad, ...] = ()
    memory_by_schedule: tuple[tuple[Schedule, int], ...] = ()
    simulated: tuple[str, ...] = ()

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
        (low_s, high_s), (serial_low_s, serial_high_s) = self.interval_s, serial.interval_s
        below = math.hypot(math.log(high_s / self.step_time_s), math.log(serial.step_time_s / serial_low_s))  # fmt: skip
        above = math.hypot(math.log(self.step_time_s / low_s), math.log(serial_high_s / serial.step_time_s))  # fmt: skip
        return speedup, speedup / math.exp(below), min(speedup * math.exp(above), max(speedup, self.ranks))  # fmt: skip


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
    has_interval: bool = True,
    draws: Draws | None = None,
) -> Forecast:
    """Return what a step of ``workload`` on ``mesh`` will take on ``machine``.

    Where steps differ it is the mean over a round, or an epoch of ``epoch_samples``. ``slow`` are
    ranks that compute so many times longer; with ``shares_nodes`` servers have no nodes of their
    own. A checkpoint every ``checkpoint_every`` steps costs each of them its share. Unless it
    ``has_interval`` that is of no width, and a search is so much faster. With ``draws`` the engine that
    simulates draws noise and interval, but for the wait of ranks that meet after several steps.

    Raises:
        MachineError: the machine lacks a section that this plan needs, or its numbers make no sense.
    """
    options = placed(options, machine)
    check_window(mesh, options, ranks_per_node)
    guests = num_guests(options, shares_nodes=shares_nodes)
    segments = cycle(workload, mesh, options, epoch_samples)
    costs = Costs(machine, mesh, ranks_per_node, slowness=dict(slow), guests=guests)
    costs.note_groups(options.algorithm, has_more=workload.global_batch % mesh.dp > 0)
    if options.device.has_streams and options.strategy in UNORDERED and not machine.copies:
        costs.extrapolated.add("staging through the host: not measured, taken as free")
    times = cycle_times(segments, workload.global_batch, costs, engine, options)
    overhead_s = costs.step_overhead_s
    programs = programs_of(segments)
    loads: tuple[StageLoad, ...] = ()
    bubble_s = 0.0
    if mesh.pp > 1:
        loads = stage_loads(programs[0], workload.network, options.stages, costs)
        free = replace(costs, is_comm_free=True, extrapolated=set())
        lanes = cycle_times(segments, workload.global_batch, free, Engine.SOLVE, replace(options, overlap=False), one_lane=False)  # fmt: skip
        bubble_s = max(0.0, lanes.step_time_s - times.compute_s)
    exposed_s = max(0.0, times.step_time_s - times.compute_s - bubble_s)
    replicas_s: list[float] = []
    noise = _noise(machine)
    is_drawn = draws is not None and engine is not Engine.SOLVE
    if draws is not None and is_drawn and noise is not None and options.strategy not in (*DIFFERING, *UNORDERED):  # fmt: skip
        slower = paces(noise, draws.seed, mesh.world_size, 1, draws.replicas)
        replicas_s = _noisy_steps_s(programs[0], costs, engine, options, slower).tolist()
        wait_s = max(0.0, sum(replicas_s) / len(replicas_s) - times.step_time_s)
    else:
        wait_s = _wait_s(costs, options, segments, loads)
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
    upper_s = None
    if times.upper_s is not None:
        upper_s = times.upper_s + wait_s + overhead_s + checkpoint_s
    low = high = 1.0
    if has_interval:

        def solved(on: Sequence[Costs]) -> list[StepTimes]:
            return cycle_times_each(segments, workload.global_batch, on, options)

        uncertain = uncertain_of(costs, programs)
        if draws is not None and is_drawn:

            def drawn(on: Costs) -> StepTimes:
                return cycle_times(segments, workload.global_batch, on, engine, options)

            rest_s = (wait_s, checkpoint_s, overhead_s)
            low, high = drawn_interval_s(uncertain, costs, draws, times, rest_s, drawn)
        else:
            base = (
                times if engine is Engine.SOLVE else solved([replace(costs, extrapolated=set())])[0]
            )
            low, high = delta_s(uncertain, costs, base, wait_s, checkpoint_s, solved)
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
        interval_s=(low * total_s, high * (total_s if upper_s is None else upper_s)),
        extrapolated=tuple(sorted(costs.extrapolated)),
        upper_s=upper_s,
        arrivals=times.arrivals,
        replicas_s=tuple(each + overhead_s + checkpoint_s for each in replicas_s),
        stages=loads,
        memory_by_schedule=tuple(memory_by_schedule(programs[0], workload, options).items())
        if mesh.pp > 1
        else (),
        simulated=times.simulated,
    )


def num_guests(options: PlanOptions, *, shares_nodes: bool) -> int:
    """Return how many ranks have no nodes of their own: the servers, if they share the workers'."""
    return options.servers if shares_nodes and options.strategy in SERVERS else 0


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

    def read(program: Program) -> list[StepTimes]:
        if one_lane is None:
            return [step_times(program, costs, engine, options)]
        return [_read(engine, program, costs, one_lane)]

    return _mean_times(segments, batch, read)[0]


def cycle_times_each(
    segments: Sequence[Segment], batch: int, costs: Sequence[Costs], options: PlanOptions
) -> list[StepTimes]:
    """Return what :func:`cycle_times` solves for each of ``costs``: variants of one Machine."""

    def read(program: Program) -> list[StepTimes]:
        share = costs[0].machine.overlap_share
        if is_asynchronous(program):
            return [step_times(program, each, Engine.SOLVE, options) for each in costs]
        if (program.mesh.pp == 1 and not options.overlap) or share == 1.0:
            return solve_each(program, costs, one_lane=False)
        taking_turns = solve_each(program, costs, one_lane=True)
        if share == 0.0:
            return taking_turns
        free_lanes = solve_each(program, costs, one_lane=False)
        return [*map(partial(_blended, share), taking_turns, free_lanes)]

    return _mean_times(segments, batch, read)


def _mean_times(
    segments: Sequence[Segment], batch: int, read: Callable[[Program], list[StepTimes]]
) -> list[StepTimes]:
    """Return the mean of what ``read`` says of each program, by how often it is done."""
    repeats: dict[int, int] = defaultdict(int)
    for segment in segments:
        repeats[id(segment.program)] += segment.times
    total: list[StepTimes] = []
    for program in programs_of(segments):
        repeated = [times.times(repeats[id(program)]) for times in read(program)]
        total = [before.then(now) for before, now in zip(total, repeated, strict=True)] if total else repeated  # fmt: skip
    samples = sum(segment.samples * segment.times for segment in segments)
    return [each.times(batch / samples) for each in total]


def _wait_s(
    costs: Costs, options: PlanOptions, segments: Sequence[Segment], loads: Sequence[StageLoad]
) -> float:
    """Return what a step waits for slower ranks, in the mean: see :mod:`sim.waits`."""
    noise, mesh, program = _noise(costs.machine), costs.mesh, segments[0].program
    if noise is None or is_asynchronous(program) or options.strategy is Strategy.HOGWILD:
        return 0.0
    steps = 1
    if options.strategy in ROUNDS:
        every = sum(segment.times for segment in segments)
        steps = min(options.average_every or every, every)
    if mesh.pp > 1:
        slow = [
            (rank, costs.slowness_of(rank)) for rank in costs.slow_ranks() if rank < mesh.world_size
        ]
        count = options.num_microbatches
        pipeline = Pipeline(tuple(load.time_s / count for load in loads), count)
        return pipeline_wait_s(noise, pipeline, mesh, slow, steps)
    computes_s = _computes_s(program, costs)
    if options.strategy is Strategy.SERVER:
        size = next(op for op in program.roles[-1].ops if isinstance(op, Send)).part.size
        _, push_s = costs.alone(size * program.itemsize, mesh.dp - 1, 0)
        return server_wait_s(noise, [*computes_s.elements()], push_s, costs.accumulate_s(size, program.roles[0].nbytes))  # fmt: skip
    return meeting_wait_s(noise, computes_s, steps)


def _computes_s(program: Program, costs: Costs) -> Counter[float]:
    """Count the ranks that train by what they compute for a step."""
    found: Counter[float] = Counter()
    for role in program.roles:
        if role.dp.start not in program.trainers:
            continue
        alone_s = _compute_s(role, costs)
        found[alone_s] += role.num_ranks
        for rank in costs.slow_ranks():
            if rank < program.mesh.world_size and program.role_of(rank) is role:
                found[alone_s * costs.slowness_of(rank)] += 1
                found[alone_s] -= 1
    return +found


def solved_step_s(
    machine: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int,
    epoch_samples: int = EPOCH_SAMPLES, *, slow: Sequence[tuple[int, float]] = (),
    shares_nodes: bool = False,
) -> float:  # fmt: skip
    """Return the solved step time alone, without stragglers: what a search compares.

    It is infinite where the plan does not fit into a node's memory. ``slow`` and ``shares_nodes`` are
    those of :func:`forecast`.
    """
    options = placed(options, machine)
    if options.strategy in LOCKSTEP:  # what does not fit need not be written
        nbytes = most_nbytes(workload, mesh, options)
        if not fits_memory(machine, mesh, nbytes, ranks_per_node):
            return math.inf
    segments = cycle(workload, mesh, options, epoch_samples)
    guests = num_guests(options, shares_nodes=shares_nodes)
    costs = Costs(machine, mesh, ranks_per_node, slowness=dict(slow), guests=guests)
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
    return _blended(share, taking_turns, _read(engine, program, costs, False))


def _blended(share: float, taking_turns: StepTimes, free_lanes: StepTimes) -> StepTimes:
    blended_s = share * free_lanes.step_time_s + (1.0 - share) * taking_turns.step_time_s
    told = tuple(dict.fromkeys((*taking_turns.simulated, *free_lanes.simulated)))
    return replace(free_lanes, step_time_s=blended_s, simulated=told)


def _noisy_steps_s(
    program: Program, costs: Costs, engine: Engine, options: PlanOptions, slower: Array
) -> Array:
    """Return what :func:`step_times` does, of each replica whose ranks compute so much longer."""
    from sim.engines import simulated_each  # noqa: PLC0415  # SimPy, only when asked for

    share = costs.machine.overlap_share
    if (program.mesh.pp == 1 and not options.overlap) or share == 1.0:
        return simulated_each(program, costs, engine, slower, one_lane=False)
    taking_turns_s = simulated_each(program, costs, engine, slower, one_lane=True)
    if share == 0.0:
        return taking_turns_s
    free_lanes_s = simulated_each(program, costs, engine, slower, one_lane=False)
    return share * free_lanes_s + (1.0 - share) * taking_turns_s


def _read(engine: Engine, program: Program, costs: Costs, one_lane: bool) -> StepTimes:
    if engine is Engine.SOLVE:
        return bounds(program, costs) if is_asynchronous(program) else solve(program, costs, one_lane=one_lane)  # fmt: skip
    from sim.engines import by_events, check_events, simulated  # noqa: PLC0415  # SimPy, only when asked for

    if is_asynchronous(program):
        check_events(program, engine)
        return by_events(_simulate_long(program, costs, one_lane))
    return simulated(program, costs, engine, one_lane=one_lane)


def _simulate_long(program: Program, costs: Costs, one_lane: bool) -> StepTimes:
    """Return the times of ``program`` from its first turns; the others go on like them.

    The machine's noise makes ranks meet in ever other orders, as they do.
    """
    from sim.simulate import simulate  # noqa: PLC0415  # SimPy, only when asked for

    noise = _noise(costs.machine)
    drawn = None if noise is None else paces(noise, 0, program.mesh.world_size, TURNS)[0]
    if program.tickets:
        fewer = program.with_tickets(TURNS * len(program.trainers))
        times = simulate(fewer, costs, one_lane=one_lane, paces=drawn)
        arrivals = times.arrivals
        return replace(times.times(program.tickets / fewer.tickets), arrivals=arrivals)
    roles = tuple(replace(role, times=TURNS) for role in program.roles)
    many = replace(program, roles=roles)
    return simulate(many, costs, one_lane=one_lane, paces=drawn).times(1.0 / TURNS)


def simulated_spans(
    machine: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int, *,
    slow: Sequence[tuple[int, float]] = (), shares_nodes: bool = False,
) -> tuple[Span, ...]:  # fmt: skip
    """Return the spans of a simulated step, or of the steps of a round, for a trace."""
    from sim.simulate import simulate  # noqa: PLC0415  # SimPy, only when asked for

    takes_turns = machine.overlap_share < 0.5
    options = placed(options, machine)
    guests = num_guests(options, shares_nodes=shares_nodes)
    costs = Costs(machine, mesh, ranks_per_node, slowness=dict(slow), guests=guests)
    spans: list[Span] = []
    now_s = 0.0
    for segment in cycle(workload, mesh, options, _TRACED_STEPS * workload.global_batch):
        program = expand(segment.program.with_tickets(_TRACED_STEPS * mesh.dp))
        for _ in range(min(segment.times, _TRACED_STEPS)):
            times = simulate(program, costs, one_lane=takes_turns, keeps_spans=True)
            spans += [replace(each, start_s=each.start_s + now_s, end_s=each.end_s + now_s) for each in times.spans]  # fmt: skip
            now_s += times.step_time_s
    return tuple(spans)


def _noise(machine: Machine) -> Noise | None:
    return machine.compute.step_noise if machine.compute else None


def _compute_s(role: Role, costs: Costs) -> float:
    return costs.work_s(tally(role.ops), role.nbytes)
