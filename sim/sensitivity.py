"""Sensitivity: what moves a forecast, and what does nothing to it.

Each number of the Machine that a plan may lean on is made a tenth worse, and the plan is forecast
again: nothing that is worse may make a step faster, and what changes nothing is named, for people
else tune what does not matter here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from calibration.importers.measured import Operation
from calibration.machine import Curve, Machine, Tier
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.program.ops import Kernel
from exec.workload import Workload
from sim.forecast import forecast

WORSE = 1.1
"""By which factor a cost is made larger."""

_PRODUCTS = frozenset({
    Kernel.LINEAR, Kernel.LINEAR_BACKWARD, Kernel.LINEAR_BACKWARD_FIRST,
    Kernel.CONV, Kernel.CONV_BACKWARD, Kernel.CONV_BACKWARD_FIRST,
})  # fmt: skip
_INERT = 1e-9  # relative; sums are rounded

Change = Callable[[Machine], Machine]


@dataclass(frozen=True, slots=True)
class Effect:
    """``ratio`` is the step's time with ``knob`` a tenth worse over what it is."""

    knob: str
    ratio: float

    @property
    def is_inert(self) -> bool:
        """Whether the knob changes nothing."""
        return abs(self.ratio - 1.0) < _INERT


def sensitivity(
    machine: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int,
    *, slow: Sequence[tuple[int, float]] = (), shares_nodes: bool = False,
) -> list[Effect]:  # fmt: skip
    """Return the effect of every knob of ``machine``, the largest first.

    ``slow`` and ``shares_nodes`` are those of :func:`sim.forecast.forecast`.
    """

    def step_s(changed: Machine) -> float:
        found = forecast(changed, workload, mesh, options, ranks_per_node=ranks_per_node,
                         slow=slow, shares_nodes=shares_nodes, has_interval=False)  # fmt: skip
        return found.step_time_s

    as_it_is_s = step_s(machine)
    effects = [
        Effect(knob, step_s(change(machine)) / as_it_is_s) for knob, change in knobs(machine)
    ]
    return sorted(effects, key=lambda effect: -abs(effect.ratio - 1.0))


def knobs(machine: Machine) -> Iterator[tuple[str, Change]]:
    """Yield what ``machine`` says that a forecast may lean on, each with what makes it worse."""
    if machine.compute is not None:
        yield "time of matrix products and convolutions", _kernels(_PRODUCTS)
        yield "time of all other kernels", _kernels(frozenset(Kernel) - _PRODUCTS)
        yield "overhead of a step", _of_compute(step_overhead_s=WORSE)
        yield "slow-down by busy neighbours", _of_compute(busy_slowdown=WORSE)
        yield "noise of a rank's steps", _noisier
    for tier in machine.links:
        for name in ("message", "allreduce"):
            what = f"{'all-reduce' if name == 'allreduce' else name} of tier {tier}"
            yield f"latency of the {what}", _of_link(tier, name, alpha=WORSE)
            yield f"transfer time of the {what}", _of_link(tier, name, beta=WORSE)
    for operation in machine.collectives:
        yield f"time of {operation} as it was measured", _of_collective(operation)
    if machine.copies:
        yield "copies between host and GPU", _of_copies
    if machine.overlap_share:
        yield "share of a transfer that compute hides", _less_overlap


def _kernels(chosen: frozenset[Kernel]) -> Change:
    def change(machine: Machine) -> Machine:
        assert machine.compute is not None
        kernels = {
            kernel: model.model_copy(update={
                "coefficients_s": {name: each * WORSE for name, each in model.coefficients_s.items()}
            }) if kernel in chosen else model
            for kernel, model in machine.compute.kernels.items()
        }  # fmt: skip
        return machine.model_copy(
            update={"compute": machine.compute.model_copy(update={"kernels": kernels})}
        )

    return change


def _of_compute(**factors: float) -> Change:
    def change(machine: Machine) -> Machine:
        assert machine.compute is not None
        update = {name: getattr(machine.compute, name) * factor for name, factor in factors.items()}
        return machine.model_copy(update={"compute": machine.compute.model_copy(update=update)})

    return change


def _noisier(machine: Machine) -> Machine:
    assert machine.compute is not None
    noise = machine.compute.step_noise
    worse = machine.compute.with_noise(None if noise is None else noise.scaled(WORSE))
    return machine.model_copy(update={"compute": worse})


def _worse_curve(curve: Curve, alpha: float, beta: float) -> Curve:
    segments = tuple(
        each.model_copy(update={
            "alpha_s": each.alpha_s * alpha, "beta_s_per_byte": each.beta_s_per_byte * beta,
        })
        for each in curve.segments
    )  # fmt: skip
    return curve.model_copy(update={"segments": segments})


def _of_link(tier: Tier, name: str, alpha: float = 1.0, beta: float = 1.0) -> Change:
    def change(machine: Machine) -> Machine:
        link = machine.links[tier]
        worse = link.model_copy(update={name: _worse_curve(getattr(link, name), alpha, beta)})
        return machine.model_copy(update={"links": {**machine.links, tier: worse}})

    return change


def _of_collective(operation: Operation) -> Change:
    def change(machine: Machine) -> Machine:
        slower = machine.collectives[operation].slower(WORSE)
        return machine.model_copy(
            update={"collectives": {**machine.collectives, operation: slower}}
        )

    return change


def _of_copies(machine: Machine) -> Machine:
    copies = {way: _worse_curve(curve, WORSE, WORSE) for way, curve in machine.copies.items()}
    return machine.model_copy(update={"copies": copies})


def _less_overlap(machine: Machine) -> Machine:
    return machine.model_copy(update={"overlap_share": machine.overlap_share / WORSE})
