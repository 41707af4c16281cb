"""Intervals: how far a step may be off, given how far the Machine's numbers may be.

Each uncertain number is taken as lognormal, with the spread of its fit's residuals. Solved, one after
the other is put at its own 5 % and 95 % quantile and the step is solved again; what it then takes
less or more adds up in squares (the delta method, with finite differences of the step itself). So a
message that compute hides makes nothing uncertain until it would stick out. Simulated, all are drawn
together, each draw is simulated, and the 5 % and 95 % quantiles are taken.

Kernels share a part of their uncertainty, since whatever makes one of them slow, as the clock or the
memory, makes others slow. The rest is each one's own, and counts by its share of what is computed.

Source: G. W. Oehlert, "A note on the delta method", American Statistician 46 (1992) 27-29; JCGM
101:2008, "Propagation of distributions using a Monte Carlo method".
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.collective_model import BEYOND_SIGMA
from calibration.importers.measured import Operation
from calibration.machine import Curve, Link, Machine, Tier
from exec.program.mesh import Axis
from exec.program.ops import Algorithm, Collective, Kernel, Op, Repeat, Send
from exec.program.program import Program
from sim.costs import Costs
from sim.result import StepTimes
from sim.work import tally

INTERVAL_Z = 1.645  # 90 % of a normal distribution
_QUANTILES = (-INTERVAL_Z, INTERVAL_Z)
SIGMA_PER_DOUBLING = 0.1
"""Assumed, not measured: the relative uncertainty that a collective gains with each doubling of
ranks beyond those it was measured on."""
MESSAGE_SIGMA_PER_DOUBLING = 0.03
"""By how much less sure messages are with each doubling of ranks beyond the two that exchanged them.
Set with a look at trainings on eight hosts whose messages were measured on two (paper/measurements/cluster)."""
SHARED_VARIANCE = 0.5
"""Assumed: the part of the variance of a kernel's time that is that of all kernels."""
NOISE_SIGMA = 0.25
"""Assumed: the relative uncertainty of how long ranks wait for each other's noise."""

Change = Callable[[Costs, float], Costs]
"""Puts a number so many standard deviations off."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """An uncertain number of a Machine, and what being off by standard deviations makes of costs."""

    name: str
    change: Change


@dataclass(frozen=True, slots=True)
class Uncertain:
    """What of a Machine is uncertain to a plan: what all kernels share, each kernel's own, and the rest.

    ``own_share`` is the root of the sum of squares of what the kernels' own parts do to the compute of
    a rank, over what the shared part does.
    """

    shared: Parameter
    own: tuple[Parameter, ...]
    own_share: float
    others: tuple[Parameter, ...]


def uncertain_of(costs: Costs, programs: Sequence[Program]) -> Uncertain:
    """Return what is uncertain of ``programs`` on the machine of ``costs``."""
    machine = costs.machine
    assert machine.compute is not None
    by_kernel, works = _kernel_times_s(programs[0], costs), _works(programs)
    sigmas = {
        kernel: math.hypot(
            machine.compute.kernels[kernel].rel_sigma, _beyond_ladder(costs, kernel, works[kernel])
        )
        for kernel in by_kernel
    }
    spread = [time_s * sigmas[kernel] for kernel, time_s in by_kernel.items()]
    own_share = math.hypot(*spread) / sum(spread) if any(spread) else 0.0
    own_share *= math.sqrt((1.0 - SHARED_VARIANCE) / SHARED_VARIANCE)
    ops = [op for program in programs for role in program.roles for op in flat(role.ops)]
    return Uncertain(
        Parameter("kernels", _kernels(sigmas, SHARED_VARIANCE)),
        tuple(Parameter(f"kernel {kernel}", _kernels({kernel: sigma}, 1.0 - SHARED_VARIANCE)) for kernel, sigma in sigmas.items() if sigma),
        own_share,
        tuple(_links(costs, ops)),
    )  # fmt: skip


def flat(ops: Iterable[Op]) -> list[Op]:
    """Return ``ops`` with those of repeats."""
    return [inner for op in ops for inner in (op.body if isinstance(op, Repeat) else (op,))]


def delta_s(
    uncertain: Uncertain, costs: Costs, solved: StepTimes, wait_s: float, checkpoint_s: float,
    solve_each: Callable[[Sequence[Costs]], Sequence[StepTimes]],
) -> tuple[float, float]:  # fmt: skip
    """Return the shares of the step's time by which it may be less, and more.

    ``solve_each`` solves for several costs; ``solved`` is its answer for ``costs``, without ``wait_s``
    and ``checkpoint_s``.
    """
    storage = costs.machine.storage
    base_s = solved.step_time_s, solved.upper_s or solved.step_time_s
    rest_s = wait_s + checkpoint_s + costs.step_overhead_s
    squares = [0.0, 0.0]
    asked = [(i, each) for i in range(2) for each in (uncertain.shared, *uncertain.others)]
    found = solve_each([each.change(costs, _QUANTILES[i]) for i, each in asked])
    for (i, each), times in zip(asked, found, strict=True):
        off_s = (times.step_time_s, times.upper_s or times.step_time_s)[i] - base_s[i]
        if each is uncertain.shared:
            off_s += wait_s * (times.compute_s / solved.compute_s - 1.0)
            off_s *= math.hypot(1.0, uncertain.own_share)
        squares[i] += off_s**2
    for i, z in enumerate(_QUANTILES):
        squares[i] += (wait_s * math.expm1(z * NOISE_SIGMA)) ** 2
        if storage is not None:
            squares[i] += (checkpoint_s * math.expm1(z * storage.rel_sigma)) ** 2
    less, more = (math.sqrt(square) / (each_s + rest_s) for square, each_s in zip(squares, base_s, strict=True))  # fmt: skip
    # No time falls to nothing: beyond four fifths it falls ever more slowly.
    return max(1.0 - less, math.exp(-2.0 * less)), 1.0 + more


def drawn(uncertain: Uncertain, costs: Costs, count: int, seed: int) -> Iterable[Costs]:
    """Yield ``costs`` with all uncertain numbers drawn, ``count`` times."""
    generator = np.random.Generator(np.random.PCG64(seed))
    every = (uncertain.shared, *uncertain.own, *uncertain.others)
    for row in generator.standard_normal((count, len(every))):
        changed = costs
        for parameter, z in zip(every, row, strict=True):
            changed = parameter.change(changed, float(z))
        yield changed


def _kernel_times_s(program: Program, costs: Costs) -> dict[Kernel, float]:
    """Return what each kernel takes on the rank that computes longest."""
    best: dict[Kernel, float] = {}
    for role in program.roles:
        found = costs.kernels_s(tally(role.ops), role.nbytes)
        if sum(found.values()) >= sum(best.values()):
            best = found
    return best


def _works(programs: Sequence[Program]) -> dict[Kernel, int]:
    """Return the most that each kernel is asked at once: the product of its shape's letters."""
    works: dict[Kernel, int] = defaultdict(int)
    for role in (role for program in programs for role in program.roles):
        for kernel, shape, _ in tally(role.ops):
            letters = (shape.n, shape.k, shape.m, shape.p, shape.q, shape.w)
            works[kernel] = max(works[kernel], math.prod(max(1, each) for each in letters))
    return works


def _beyond_ladder(costs: Costs, kernel: Kernel, work: int) -> float:
    """Return what shapes beyond those measured add to the uncertainty of ``kernel``."""
    model = costs.machine.kernel_model(kernel)
    high = math.prod(max(1.0, each.high) for each in (model.n, model.k, model.m, model.p, model.q, model.w))  # fmt: skip
    return BEYOND_SIGMA * max(0.0, math.log2(work / high)) if work else 0.0


def _kernels(sigmas: Mapping[Kernel, float], variance: float) -> Change:
    def change(costs: Costs, z: float) -> Costs:
        factors = dict(costs.kernel_factors)
        for kernel, sigma in sigmas.items():
            factors[kernel] = factors.get(kernel, 1.0) * math.exp(z * sigma * math.sqrt(variance))
        return replace(costs, kernel_factors=factors, extrapolated=set())

    return change


def _links(costs: Costs, ops: Sequence[Op]) -> Iterable[Parameter]:
    """Yield what is uncertain of the links that ``ops`` use."""
    machine, axes = costs.machine, (Axis.DP, Axis.TP, Axis.PP)
    asked = [op for op in ops if isinstance(op, Collective | Send)]
    library = [op for op in asked if isinstance(op, Collective) and op.algorithm is Algorithm.LIBRARY]  # fmt: skip
    others = len(asked) > len(library)
    nbytes = [op.part.size * 8.0 for op in asked]
    for tier in machine.links:
        groups = [
            count for axis in axes for tier_of, count in _spans(costs, axis) if tier_of is tier
        ]
        if not groups:
            continue
        link = machine.links[tier]
        beyond = SIGMA_PER_DOUBLING * max(0.0, math.log2(max(groups) / link.allreduce_ranks.high))
        if library:
            sigma = math.hypot(link.allreduce.rel_sigma, beyond, _beyond_sizes(link.allreduce, nbytes))  # fmt: skip
            yield Parameter(f"all-reduce of tier {tier}", _link(tier, "allreduce", sigma, sigma))
        if others:
            grown = MESSAGE_SIGMA_PER_DOUBLING * max(0.0, math.log2(math.prod(groups) / 2))
            sigma = math.hypot(link.message.rel_sigma, grown, _beyond_sizes(link.message, nbytes))
            yield Parameter(f"message latency of tier {tier}", _link(tier, "message", sigma, 0.0))
            yield Parameter(f"message bandwidth of tier {tier}", _link(tier, "message", 0.0, sigma))
    if library and machine.collectives:
        yield Parameter("measured collectives", _collectives(costs.collective_sigma))


def _spans(costs: Costs, axis: Axis) -> list[tuple[Tier, int]]:
    on_node, nodes, _ = costs.fabric.group_nodes(axis)
    return [
        (tier, count) for tier, count in ((Tier.NODE, on_node), (Tier.NETWORK, nodes)) if count > 1
    ]


def _beyond_sizes(curve: Curve, nbytes: Sequence[float]) -> float:
    most = max(nbytes, default=0.0)
    return BEYOND_SIGMA * max(0.0, math.log2(most / curve.nbytes.high)) if most and curve.nbytes.high else 0.0  # fmt: skip


def _link(tier: Tier, name: str, alpha: float, beta: float) -> Change:
    def change(costs: Costs, z: float) -> Costs:
        machine = costs.machine
        link = machine.links[tier]
        curve: Curve = getattr(link, name)
        segments = tuple(
            each.model_copy(update={
                "alpha_s": each.alpha_s * math.exp(z * alpha),
                "beta_s_per_byte": each.beta_s_per_byte * math.exp(z * beta),
            })
            for each in curve.segments
        )  # fmt: skip
        other: Link = link.model_copy(
            update={name: curve.model_copy(update={"segments": segments})}
        )
        return _on(costs, machine.model_copy(update={"links": {**machine.links, tier: other}}))

    return change


def _collectives(sigma: float) -> Change:
    def change(costs: Costs, z: float) -> Costs:
        machine = costs.machine
        found: dict[Operation, object] = {
            operation: model.slower(math.exp(z * sigma))
            for operation, model in machine.collectives.items()
        }
        return _on(costs, machine.model_copy(update={"collectives": found}))

    return change


def _on(costs: Costs, machine: Machine) -> Costs:
    return replace(costs, machine=machine, extrapolated=set(), _estimates={})
