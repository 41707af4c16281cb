"""Links of many Machines at once: what messages and collectives take, in arrays.

Machines of one form differ in the times of their links alone. Stacked, they are one Machine whose
times are arrays, and :class:`sim.costs.Costs` tells of it what it tells of any.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.machine import Curve, Machine
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Collective, Kernel, Shape
from exec.program.program import Program
from sim.costs import Costs
from sim.grid_family import Share, done_by, program_of
from sim.memory import collective_nbytes
from sim.priced import collective_adding_s

Array = NDArray[np.float64]
_CURVES = ("message", "allreduce")


def form_of(machine: Machine) -> tuple[object, ...]:
    """Return what Machines have in common that can be stacked.

    Collectives that were measured for themselves are not stacked.
    """
    compute = machine.compute
    assert compute is not None
    links = tuple(
        (tier, *(_form(getattr(link, name)) for name in _CURVES),
         *(_hashable(value) for name, value in link.__dict__.items() if name not in _CURVES))
        for tier, link in machine.links.items()
    )  # fmt: skip
    alone = id(machine) if machine.collectives else None
    return (links, id(machine.copies), compute.device, compute.cores_per_node, compute.busy_slowdown, alone)  # fmt: skip


def _hashable(value: object) -> object:
    return tuple(value.items()) if isinstance(value, dict) else value


def _form(curve: Curve) -> tuple[object, ...]:
    return (*(each.up_to_nbytes for each in curve.segments), curve.nbytes, curve.rel_sigma)


def stacked(machines: Sequence[Machine]) -> Machine:
    """Return ``machines`` of one form as one, the times of whose links are arrays, one for each."""
    first = machines[0]
    links = {}
    for tier, link in first.links.items():
        curves = {name: _stacked([getattr(each.links[tier], name) for each in machines]) for name in _CURVES}  # fmt: skip
        links[tier] = link.model_copy(update=curves)
    return first.model_copy(update={"links": links})


def _stacked(curves: Sequence[Curve]) -> Curve:
    segments = tuple(
        each[0].model_copy(update={name: np.array([getattr(one, name) for one in each]) for name in ("alpha_s", "beta_s_per_byte")})
        for each in zip(*(curve.segments for curve in curves), strict=True)
    )  # fmt: skip
    return curves[0].model_copy(update={"segments": segments})


@dataclass(frozen=True, slots=True)
class Times:
    """What a site's links take, for each stage.

    ``collectives`` are arrays by turn, share of the batch, tp class and Machine; ``sends`` have latency
    and transfer before the Machine.
    """

    collectives: tuple[Array, ...]
    sends: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What sites differ in beside their Machines: ``more`` replicas have one sample more than others."""

    mesh: Mesh
    ranks_per_node: int
    itemsize: int
    options: PlanOptions
    share: Share
    more: int

    def program(self, share: Share) -> Program:
        """Return the program of a step that is shared as ``share``."""
        return program_of(share, self.mesh, self.itemsize, self.options, self.more)

    def done(self, op: Collective) -> Collective:
        """Return ``op`` as it is done here."""
        return done_by(op, self.mesh, self.options)


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A plan on ``num_machines`` that are stacked."""

    plan: Plan
    num_machines: int
    costs: Costs
    times: Times
    scratch_nbytes: int

    @property
    def is_extrapolated(self) -> bool:
        """Whether something was asked beyond what was measured."""
        return bool(self.costs.extrapolated)

    def under(self, change: Callable[[Costs, float], Costs], z: float) -> Times:
        """Return the times with a number so many standard deviations off."""
        return _times(self.plan, change(self.costs, z), self.num_machines)

    def added_s(self, costs: Costs, shares: Sequence[Share]) -> tuple[tuple[Array, ...], bool]:
        """Return what collectives take to add what comes, whatever the links, and whether that was measured.

        ``costs`` are those of one rank alone. The arrays are by turn, share of the batch, tp class and
        item of ``shares``, for each stage.
        """
        free = replace(self.costs, is_comm_free=True)
        found: list[Array] = []
        is_within = True
        for stage, parts in enumerate(self.plan.share.replicas[0].parts):
            shape = len(self.plan.share.replicas), len(parts)
            added = np.zeros((len(parts[0].collectives), *shape, len(shares)))
            for replica, tp in np.ndindex(shape):
                held = [each.replicas[replica].parts[stage][tp].nbytes for each in shares]
                missed = np.array([costs.missed(nbytes) for nbytes in held])

                def add(count: int, missed: Array = missed) -> float:
                    nonlocal is_within
                    (cached_s, *more_s), within = costs.parts_s(Kernel.ACCUMULATE, Shape(0, 0, count))  # fmt: skip
                    is_within = is_within and within
                    alone_s: float = cached_s + missed @ np.array(more_s)
                    return alone_s * free.slowdown

                ops = self.plan.share.replicas[replica].parts[stage][tp].collectives
                for turn, op in enumerate(ops):
                    added[turn, replica, tp] = collective_adding_s(free, self.plan.done(op), self.plan.itemsize, 0, add)  # fmt: skip
            found.append(added)
        return tuple(found), is_within


def site_of(plan: Plan, machine: Machine, num_machines: int) -> Site:
    """Return the site of ``plan`` on ``machine``, which is ``num_machines`` that are stacked.

    Raises:
        MachineError: the Machine lacks a section that the plan needs.
    """
    costs = Costs(machine, plan.mesh, plan.ranks_per_node)
    costs.note_groups(plan.options.algorithm, has_more=plan.more > 0)
    times = _times(plan, costs, num_machines)
    nbytes = 0
    if plan.options.algorithm is not Algorithm.LIBRARY:
        nbytes = collective_nbytes(plan.program(plan.share), plan.options)
    return Site(plan, num_machines, costs, times, nbytes)


def _times(plan: Plan, costs: Costs, num_machines: int) -> Times:
    mesh, share = plan.mesh, plan.share
    known: dict[tuple[object, ...], float] = {}

    def taken_s(op: Collective) -> float:
        key = op.kind, op.axis, op.part.size, op.part.unit
        if key not in known:
            known[key] = collective_adding_s(costs, plan.done(op), plan.itemsize, 0, lambda _: 0.0)
        return known[key]

    collectives, sends = [], []
    for stage, parts in enumerate(share.replicas[0].parts):
        shape = len(share.replicas), len(parts)
        taken = np.empty((len(parts[0].collectives), *shape, num_machines))
        sent = np.empty((len(parts[0].sent), *shape, 2, num_machines))
        for replica, tp in np.ndindex(shape):
            part = share.replicas[replica].parts[stage][tp]
            rank = ((plan.more if replica else 0) * mesh.pp + stage) * mesh.tp + part.tp.start
            for turn, op in enumerate(part.collectives):
                taken[turn, replica, tp] = taken_s(op)
            for turn, (nbytes, other) in enumerate(part.sent):
                alone = costs.alone(nbytes, rank, rank + (other - stage) * mesh.tp)
                sent[turn, replica, tp, 0], sent[turn, replica, tp, 1] = alone
        collectives.append(taken)
        sends.append(sent)
    return Times(tuple(collectives), tuple(sends))
