"""Prices: what the steps of a walk take, on one Machine or on several variants of it at once.

The variants of a forecast's interval differ from it by single numbers, so one walk tells the times
of all: a time is then an array, with an element for each, and what later of two times is meant is
told element by element. Each thing is priced once, whoever asks again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from exec.program.ops import Algorithm, Collective, CollectiveKind, Kernel, Scope
from sim.collectives import Sum, allgather_s, allreduce_s, hierarchical_s
from sim.costs import Costs
from sim.fabric import Pattern
from sim.network import completions_s
from sim.steps import Step
from sim.work import Tally

Seconds = float | NDArray[np.float64]
"""A time, or one for each variant."""
_Message = tuple[float, int, int]  # bytes, source and destination


@dataclass(slots=True)
class Priced:
    """What things take for each of ``costs``, which may differ by what they take and nothing else."""

    costs: Sequence[Costs]
    latest: Callable[[Seconds, Seconds], Seconds] = field(init=False)
    _known: dict[object, Seconds] = field(init=False, default_factory=dict)
    _messages: dict[_Message, tuple[Seconds, Seconds]] = field(init=False, default_factory=dict)
    _factors: dict[Kernel, Seconds] = field(init=False, default_factory=dict)
    _is_alike: bool = field(init=False)

    def __post_init__(self) -> None:
        self.latest = max if len(self.costs) == 1 else np.maximum
        self._is_alike = all(each.computes_as(self.costs[0]) for each in self.costs)

    def work_s(self, tally: Tally, held_nbytes: int) -> Seconds:
        """Return the time of ``tally`` on a rank that holds ``held_nbytes``."""
        key = id(tally), held_nbytes
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._work_s(tally, held_nbytes)
        return found

    def _work_s(self, tally: Tally, held_nbytes: int) -> Seconds:
        if not self._is_alike:
            return self._each(lambda on: on.work_s(tally, held_nbytes))
        total_s: Seconds = 0.0
        for kernel, alone_s in self.costs[0].plain_s(tally, held_nbytes).items():
            total_s = total_s + alone_s * self._factor(kernel)
        return total_s

    def _factor(self, kernel: Kernel) -> Seconds:
        if kernel not in self._factors:
            self._factors[kernel] = self._each(lambda on: on.kernel_factors.get(kernel, 1.0))
        return self._factors[kernel]

    def _each(self, ask: Callable[[Costs], float]) -> Seconds:
        if len(self.costs) == 1:
            return ask(self.costs[0])
        return np.array([ask(each) for each in self.costs])

    def _once(self, key: object, ask: Callable[[Costs], float]) -> Seconds:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._each(ask)
        return found

    def collective_s(self, op: Collective, itemsize: int, rank: int, held: int) -> Seconds:
        """Return the time of ``op`` for the group of ``rank``, which holds ``held`` bytes."""
        key = (
            op.kind,
            op.part.size,
            op.part.unit,
            op.axis,
            op.algorithm,
            op.node_size,
            op.scope,
            rank,
            held,
        )
        return self._once(key, lambda on: collective_s(on, op, itemsize, rank, held))

    def save_s(self, nbytes: int, num_savers: int) -> Seconds:
        """Return :meth:`sim.costs.Costs.save_s`."""
        return self._each(lambda on: on.save_s(nbytes, num_savers))

    def window_s(self, num_elements: int, itemsize: int, held_nbytes: int) -> Seconds:
        """Return :meth:`sim.costs.Costs.window_s`."""
        key = "window", num_elements, itemsize, held_nbytes
        return self._once(key, lambda on: on.window_s(num_elements, itemsize, held_nbytes))

    def accumulate_s(self, num_elements: int, held_nbytes: int) -> Seconds:
        """Return :meth:`sim.costs.Costs.accumulate_s`."""
        key = "sum", num_elements, held_nbytes
        return self._once(key, lambda on: on.accumulate_s(num_elements, held_nbytes))

    def alone(self, nbytes: float, source: int, dest: int) -> tuple[Seconds, Seconds]:
        """Return :meth:`sim.costs.Costs.alone`: the latency and the transfer."""
        key = nbytes, source, dest
        found = self._messages.get(key)
        if found is None:
            asked = [each.alone(nbytes, source, dest) for each in self.costs]
            found = asked[0] if len(asked) == 1 else tuple(np.array(asked).T)  # fmt: skip
            self._messages[key] = found
        return found

    def sent_s(self, starts_s: Sequence[Seconds], asked: Sequence[_Message]) -> list[Seconds]:
        """Return when messages end that set out at ``starts_s``, sharing their ways."""
        ends_s = []
        for place, on in enumerate(self.costs):
            flows = [
                (_of(start_s, place), replace(on.transfer(*message), latency_s=0.0))
                for start_s, message in zip(starts_s, asked, strict=True)
            ]
            ends_s.append(completions_s(flows, on.capacity))
        return self._joined(ends_s)

    def arrived_s(
        self, spans_s: Sequence[tuple[Seconds, Seconds]], asked: Sequence[_Message]
    ) -> list[Seconds]:
        """Return when messages arrive that alone would take such spans, sharing their ways."""
        ends_s = []
        for place, on in enumerate(self.costs):
            flows = []
            for (start_s, end_s), message in zip(spans_s, asked, strict=True):
                told, begins_s = on.transfer(*message), _of(start_s, place)
                took_s = _of(end_s, place) - begins_s
                rate = told.nbytes / took_s if took_s else math.inf
                flows.append((begins_s, replace(told, latency_s=0.0, bytes_per_s=rate, channel=None)))  # fmt: skip
            ends_s.append(completions_s(flows, on.capacity))
        return self._joined(ends_s)

    def _joined(self, ends_s: list[list[float]]) -> list[Seconds]:
        return [*ends_s[0]] if len(ends_s) == 1 else [*np.array(ends_s).T]


def _of(time_s: Seconds, place: int) -> float:
    return time_s if isinstance(time_s, float) else float(time_s[place])


def collective_s(costs: Costs, op: Collective, itemsize: int, rank: int, held: int) -> float:
    """Return the time of ``op`` for the group of ``rank``, which holds ``held`` bytes, once all are there."""
    return collective_adding_s(
        costs, op, itemsize, rank, lambda count: costs.accumulate_s(count, held)
    )


def collective_adding_s(costs: Costs, op: Collective, itemsize: int, rank: int, add: Sum) -> float:
    """Return what :func:`collective_s` does where ``add`` says what it takes to add so many elements."""
    ranks = costs.mesh.size(op.axis)
    if op.algorithm is Algorithm.LIBRARY or ranks == 1:
        return costs.library_s(op, itemsize, rank)
    elements = op.part.size

    def message_s(count: int, step: Step) -> float:
        latency_s, transfer_s = costs.message(count * itemsize, step.tier, step.sharers)
        return latency_s + step.more_latency_s + transfer_s

    def hop(count: int, distance: int, pattern: Pattern) -> float:
        return message_s(count, costs.step(rank, op.axis, distance, pattern))

    def inside(count: int) -> float:
        return message_s(count, costs.step(rank, op.axis, 1, Pattern.SHIFT, op.node_size))

    def between(count: int) -> float:
        return message_s(count, costs.step(rank, op.axis, op.node_size, Pattern.SHIFT))

    if op.kind is CollectiveKind.ALLGATHER:
        return allgather_s(elements, op.part.unit, ranks, hop)
    if op.algorithm is Algorithm.HIERARCHICAL:
        is_between = op.scope is Scope.BETWEEN
        return hierarchical_s(elements, ranks, op.node_size, inside, between, add, is_between=is_between)  # fmt: skip
    return allreduce_s(op.algorithm, elements, ranks, hop, add)
