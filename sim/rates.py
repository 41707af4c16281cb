"""Rates that were published: from one device's, its parameters and a link, those of more devices."""

from collections.abc import Sequence
from dataclasses import dataclass

from calibration.machine import Machine
from exec.errors import MachineError
from exec.network.profile import rate_network
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.forecast import forecast
from sim.profiled import profiled_machine


@dataclass(frozen=True, slots=True)
class Rate:
    """``samples_per_s`` of data-parallel training on ``ranks`` devices, each with ``batch`` samples a step."""

    model: str
    num_parameters: int
    batch: int
    ranks: int
    samples_per_s: float


@dataclass(frozen=True, slots=True)
class HeldOutRate:
    """A rate that was forecast from that of one device, and its 90 % interval."""

    rate: Rate
    samples_per_s: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The relative error, positive where the forecast is too fast."""
        return self.samples_per_s / self.rate.samples_per_s - 1.0

    @property
    def is_inside(self) -> bool:
        """Say whether the interval holds the measurement."""
        return self.low <= self.rate.samples_per_s <= self.high


def hold_out_rates(
    rates: Sequence[Rate], machine: Machine, ranks_per_node: int
) -> list[HeldOutRate]:
    """Return the forecasts of all rates on several devices, from those of the same model on one.

    Raises:
        MachineError: a model has no rate on one device with the same batch.
    """
    alone = {(each.model, each.batch): each for each in rates if each.ranks == 1}
    profiled = profiled_machine(machine, ranks_per_node)
    found = []
    for each in rates:
        if each.ranks == 1:
            continue
        if (each.model, each.batch) not in alone:
            raise MachineError(f"{each.model} must have a rate on one device with batch {each.batch}, got none")  # fmt: skip
        one = alone[each.model, each.batch].samples_per_s
        workload = Workload(rate_network(one, each.num_parameters), each.batch * each.ranks)
        options = PlanOptions(strategy=Strategy.DATA)
        answer = forecast(profiled, workload, Mesh(each.ranks), options, ranks_per_node=ranks_per_node)  # fmt: skip
        low_s, high_s = answer.interval_s
        samples = answer.global_batch
        found.append(HeldOutRate(each, answer.samples_per_s, samples / high_s, samples / low_s))
    return found
