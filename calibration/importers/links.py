"""Links from measurements of others: what a Machine needs of a tier, as far as they tell it."""

from collections import defaultdict
from collections.abc import Sequence

from calibration.collective_model import tier_of
from calibration.fit import fit_allreduce, fit_curve
from calibration.importers.measured import Measured, Operation
from calibration.machine import Curve, Link, Range, Tier
from calibration.samples import MessageSample

IMPLIED_SIGMA = 0.35
"""Assumed of a curve that was not measured, but is implied by another."""
_MESSAGES = (Operation.SENDRECV, Operation.PINGPING, Operation.PINGPONG)
"""What tells of a message, the best first: ranks of a collective send and receive at once."""


def links_of(found: Sequence[Measured], source: str) -> dict[Tier, Link]:
    """Return the link of each tier that ``found`` measures alone.

    A message is one way of a sendrecv, a ping-ping or a ping-pong, or one of the p - 1 steps of an
    all-gather of p shares. Where a tier has messages and no all-reduce, or the other way round, one
    is taken for the other: an all-reduce of two ranks exchanges the buffer once. The source says so.
    """
    by_tier: dict[Tier, list[Measured]] = defaultdict(list)
    for each in found:
        if (tier := tier_of(each.ranks, each.nodes)) is not None:
            by_tier[tier].append(each)
    links = {tier: _link(tier, measured, source) for tier, measured in by_tier.items()}
    return {tier: link for tier, link in links.items() if link is not None}


def _link(tier: Tier, measured: Sequence[Measured], source: str) -> Link | None:
    sums = [
        MessageSample(kind="allreduce", tier=tier, ranks=each.ranks, nbytes=each.nbytes, time_s=each.time_s)
        for each in measured
        if each.operation is Operation.ALLREDUCE and each.nbytes
    ]  # fmt: skip
    has_sums = len({each.nbytes for each in sums}) > 1
    allreduce = fit_allreduce(sums, source) if has_sums else None
    message = _message(measured, source)
    if allreduce is None and message is None:
        return None
    if allreduce is None:
        assert message is not None
        allreduce = _implied(message, "all-reduce implied by its messages")
    ranks = [each.ranks for each in sums] if has_sums else [2]
    return Link(
        message=message or _implied(allreduce, "messages implied by its all-reduce"),
        allreduce=allreduce,
        allreduce_ranks=Range(low=min(ranks), high=max(ranks)),
        from_device=any(each.busbw_bytes_per_s is not None for each in measured),
    )


def _implied(curve: Curve, how: str) -> Curve:
    return curve.model_copy(
        update={
            "rel_sigma": max(curve.rel_sigma, IMPLIED_SIGMA),
            "source": f"{curve.source}; {how}",
        }
    )


def _message(measured: Sequence[Measured], source: str) -> Curve | None:
    for operation in _MESSAGES:
        sent = [each for each in measured if each.operation is operation]
        if len({each.nbytes for each in sent}) > 1:
            return fit_curve([each.nbytes for each in sent], [each.time_s for each in sent], f"{source}, {operation}")  # fmt: skip
    passed = [each for each in measured if each.operation is Operation.ALLGATHER and each.nbytes]
    return ring_message(passed, source) if len({each.nbytes for each in passed}) > 1 else None


def ring_message(gathers: Sequence[Measured], source: str) -> Curve:
    """Return the curve of one of the p - 1 steps of a ring all-gather, each of a share of n / p."""
    return fit_curve(
        [each.nbytes / each.ranks for each in gathers],
        [each.time_s / (each.ranks - 1) for each in gathers],
        source,
    )
