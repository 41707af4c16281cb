"""Collectives over both tiers: ranks that share nodes, which share a network."""

import math

from calibration.collective_model import CollectiveModel, Estimate
from calibration.importers.measured import Operation
from calibration.machine import Curve, Machine
from calibration.section import Tier

STATED_SIGMA = 1.0
"""Of a link that was stated and not measured, or of whose collectives only its messages were.

So much the published all-reduces of the shipped networks (:mod:`calibration.published`) differ from
what their data sheets imply: a data sheet tells of the wire, and libraries reach a half of it or less.
"""
UNTOLD_SIGMA = 0.15
"""Assumed for each doubling of ranks where nothing tells how a time grows."""
ALLREDUCE_SHARES = {
    Operation.ALLREDUCE: 1.0, Operation.ALLGATHER: 0.5, Operation.REDUCE_SCATTER: 0.5,
    Operation.BROADCAST: 0.5, Operation.REDUCE: 0.5,
}  # fmt: skip
"""An all-reduce is a reduce-scatter and an all-gather; each of these is half of one."""


def collective_estimate(
    machine: Machine, operation: Operation, ranks: int, nodes: int, nbytes: float
) -> Estimate | None:
    """Return the time of ``operation`` over ``ranks`` ranks on ``nodes`` nodes of ``machine``.

    None where the machine neither measured it nor has the links that would tell.
    """
    model = machine.collectives.get(operation)
    if model is not None and (series := model.measured(ranks, nodes)) is not None:
        time_s, sigma = series.at(nbytes)
        latency_s = min(time_s, series.times_s[0])
        beyond = not series.nbytes[0] <= nbytes <= series.nbytes[-1]
        return Estimate(latency_s, time_s - latency_s, sigma, beyond)
    if nodes == 1:
        return _tier_estimate(machine, model, operation, Tier.NODE, ranks, nbytes)
    if nodes == ranks:
        return _tier_estimate(machine, model, operation, Tier.NETWORK, ranks, nbytes)
    composed = _composed(machine, model, operation, ranks, nodes, nbytes)
    return composed if model is None else _anchored(machine, model, ranks, nodes, nbytes, composed)


def _tier_estimate(
    machine: Machine, model: CollectiveModel | None, operation: Operation, tier: Tier, ranks: int,
    nbytes: float,
) -> Estimate | None:  # fmt: skip
    """Return the time at one tier: as its collective was measured, else as its link implies."""
    if model is not None and (found := model.on_tier(tier, ranks, nbytes)) is not None:
        return found
    if tier not in machine.links or operation not in ALLREDUCE_SHARES:
        return None
    latency_s, transfer_s = stated_parts_s(machine.links[tier].allreduce, ranks, nbytes)
    share = ALLREDUCE_SHARES[operation]
    return Estimate(share * latency_s, share * transfer_s, STATED_SIGMA, True)


def stated_parts_s(pair: Curve, ranks: int, nbytes: float) -> tuple[float, float]:
    """Return latency and transfer of an all-reduce by what two ranks take, ``pair``.

    As :func:`sim.collectives.library_allreduce_s` does: ``ceil(log2 p) alpha + 2 (p - 1) / p beta n``.
    """
    alpha_s, beta = pair.at(nbytes)
    return math.ceil(math.log2(ranks)) * alpha_s, 2.0 * (ranks - 1) / ranks * beta * nbytes


def _composed(
    machine: Machine, model: CollectiveModel | None, operation: Operation, ranks: int, nodes: int,
    nbytes: float,
) -> Estimate | None:  # fmt: skip
    """Return the time of the node's part and the network's, one after the other or both at once.

    What nobody looked at is uncertain by half of what lies between, and by that of a time of which
    nothing tells how it grows, for each doubling of the ranks beyond those measured.
    """
    inside = _tier_estimate(machine, model, operation, Tier.NODE, -(-ranks // nodes), nbytes)
    between = _tier_estimate(machine, model, operation, Tier.NETWORK, nodes, nbytes)
    if inside is None or between is None:
        return None
    pipelined_s = max(inside.transfer_s, between.transfer_s)
    after_s = inside.transfer_s + between.transfer_s
    is_pipelined = model.is_pipelined if model is not None else None
    latency_s = inside.latency_s + between.latency_s
    total_s = latency_s + after_s
    doubt = 0.0
    if is_pipelined is None:
        untold = UNTOLD_SIGMA * _doublings_beyond(model, ranks)
        doubt = math.hypot(0.5 * math.log(total_s / (latency_s + pipelined_s)), untold)
    sigma = math.hypot(inside.time_s * inside.rel_sigma, between.time_s * between.rel_sigma) / total_s  # fmt: skip
    return Estimate(latency_s, pipelined_s if is_pipelined else after_s, math.hypot(sigma, doubt), True)  # fmt: skip


def _doublings_beyond(model: CollectiveModel | None, ranks: int) -> float:
    """Return how often the most ranks that were measured double up to ``ranks``."""
    most = max((each.ranks for each in model.series), default=2) if model is not None else 2
    return max(0.0, math.log2(ranks / most))


def _anchored(
    machine: Machine, model: CollectiveModel, ranks: int, nodes: int, nbytes: float,
    composed: Estimate | None,
) -> Estimate | None:  # fmt: skip
    """Return ``composed`` times what it misses of the nearest series over two tiers, if there is one."""
    both = [each for each in model.series if each.tier is None]
    if not both:
        return composed
    nearest = min(both, key=lambda s: (abs(math.log(s.ranks / ranks)) + abs(math.log(s.nodes / nodes)), -s.ranks))  # fmt: skip
    time_s, sigma = nearest.at(nbytes)
    doublings = abs(math.log2(ranks / nearest.ranks)) + abs(math.log2(nodes / nearest.nodes))
    known = _composed(machine, model, model.operation, nearest.ranks, nearest.nodes, nbytes)
    ratio = 1.0
    if composed is not None and known is not None:
        ratio = composed.time_s / known.time_s
    spread = math.hypot(sigma, UNTOLD_SIGMA * doublings)
    share = 0.0 if composed is None else composed.latency_s / composed.time_s
    return Estimate(time_s * ratio * share, time_s * ratio * (1.0 - share), spread, True)
