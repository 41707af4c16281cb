"""Links from measurements of others: what a Machine needs of a tier, as far as they tell it."""

from collections import defaultdict
from collections.abc import Sequence

from calibration.fit import fit_allreduce, fit_curve
from calibration.importers.measured import Measured, Operation
from calibration.machine import Curve, Link, Range, Tier
from calibration.samples import MessageSample
from exec.errors import MachineError


def tier_of(measured: Measured) -> Tier | None:
    """Return the one tier that the ranks of a measurement meet at, or None if there are two."""
    if measured.nodes == 1:
        return Tier.NODE
    return Tier.NETWORK if measured.nodes == measured.ranks else None


def links_of(found: Sequence[Measured], source: str) -> dict[Tier, Link]:
    """Return the link of each tier that ``found`` measures alone.

    A message is one way of a sendrecv, or one of the p - 1 steps of an all-gather of p shares.

    Raises:
        MachineError: a tier lacks all-reduces or messages, or no tier is measured alone.
    """
    by_tier: dict[Tier, list[Measured]] = defaultdict(list)
    for each in found:
        if (tier := tier_of(each)) is not None:
            by_tier[tier].append(each)
    if not by_tier:
        raise MachineError(
            "measurements must be of ranks of one node, or of one rank on each node, to tell one "
            f"tier from the other, got {found[0].ranks} ranks on {found[0].nodes} nodes"
        )
    return {tier: _link(tier, measured, source) for tier, measured in by_tier.items()}


def _link(tier: Tier, measured: Sequence[Measured], source: str) -> Link:
    sums = [
        MessageSample(kind="allreduce", tier=tier, ranks=each.ranks, nbytes=each.nbytes, time_s=each.time_s)
        for each in measured
        if each.operation is Operation.ALLREDUCE
    ]  # fmt: skip
    if not sums:
        raise MachineError(f"the {tier} link needs measurements of all_reduce, got none")
    ranks = [each.ranks for each in sums]
    return Link(
        message=_message(tier, measured, source),
        allreduce=fit_allreduce(sums, source),
        allreduce_ranks=Range(low=min(ranks), high=max(ranks)),
        from_device=True,
    )


def _message(tier: Tier, measured: Sequence[Measured], source: str) -> Curve:
    sent = [each for each in measured if each.operation is Operation.SENDRECV]
    if sent:
        return fit_curve([each.nbytes for each in sent], [each.time_s for each in sent], source)
    passed = [each for each in measured if each.operation is Operation.ALLGATHER]
    if not passed:
        raise MachineError(f"the {tier} link needs measurements of sendrecv or all_gather, got none")  # fmt: skip
    return ring_message(passed, source)


def ring_message(gathers: Sequence[Measured], source: str) -> Curve:
    """Return the curve of one of the p - 1 steps of a ring all-gather, each of a share of n / p."""
    return fit_curve(
        [each.nbytes / each.ranks for each in gathers],
        [each.time_s / (each.ranks - 1) for each in gathers],
        source,
    )
