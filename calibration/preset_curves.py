"""Curves of shipped Machines: published tables, with what other systems may differ by."""

import math

from calibration.machine import Curve, Tier
from calibration.published import Table
from calibration.samples import MessageSample

OTHER_SYSTEM_REL_SIGMA = 0.3
"""Assumed, not measured: how far a system of the same kind is from the one that was published."""


def allreduce_samples(table: Table, tier: Tier) -> list[MessageSample]:
    """Return the all-reduces of ``table`` as samples of ``tier``."""
    return [
        MessageSample(kind="allreduce", tier=tier, ranks=table.ranks, nbytes=nbytes, time_s=time_s)
        for nbytes, time_s in zip(table.sizes, table.times_s, strict=True)
    ]


def widened(curve: Curve, *more_rel_sigmas: float) -> Curve:
    """Return ``curve`` with the spread of the fit, of other systems of its kind, and more."""
    rel_sigma = math.hypot(curve.rel_sigma, OTHER_SYSTEM_REL_SIGMA, *more_rel_sigmas)
    return curve.model_copy(update={"rel_sigma": rel_sigma})
