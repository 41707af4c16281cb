"""Collectives as they were measured, and what they imply for other sizes, ranks and nodes.

What was measured is kept: a series of sizes for each number of ranks on each number of nodes.
Between two sizes the time is linear, as Hockney's is between protocols. For other ranks it is that
of the nearest series, times the ratio of the forms fitted to all series of the tier
(:mod:`calibration.collective_fit`). Over two tiers, of which only one was measured or both apart,
the inside of a node comes first and then the network, one after the other, each with the whole
buffer; a library that was seen to do both at once does so at other sizes too.

Every answer has its uncertainty, one standard deviation of the logarithm of the time. It is made of
what leaving out each measured size would have missed, of what leaving out the largest number of
ranks would have missed for each doubling, and of how far apart the forms are that explain the
measurements about as well.
"""

import math
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from calibration.collective_forms import Form, counts
from calibration.importers.measured import Operation
from calibration.section import NonNegative, Positive, Range, Section, Tier

BEYOND_SIGMA = 0.1
"""Assumed for each doubling of bytes beyond the sizes that were measured."""
NEARER = 0.4
"""What a size misses that lies between two others, of what each of those missed when left out: it is
half as far from its neighbours, which leaves a quarter of an error of curvature and all of one of
chance. Chosen between the two; the share of held-out values inside intervals is reported."""
MAD_TO_SIGMA = 1.4826
"""A standard deviation over the median of absolute values, of a normal distribution."""
LEAST_SIGMA = 0.01
"""The least uncertainty of anything: that of measuring again."""
INTERVAL_Z = 1.645  # 90 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A forecast time, in two parts that add up; ``rel_sigma`` is that of their sum's logarithm."""

    latency_s: float
    transfer_s: float
    rel_sigma: float
    is_extrapolated: bool = False

    @property
    def time_s(self) -> float:
        """The time."""
        return self.latency_s + self.transfer_s

    def interval_s(self) -> tuple[float, float]:
        """Return the 90 % interval."""
        margin = math.exp(INTERVAL_Z * self.rel_sigma)
        return self.time_s / margin, self.time_s * margin


class Series(Section):
    """Times of one operation over ``ranks`` ranks on ``nodes`` nodes, by size.

    ``missed`` says by what share of the time the neighbours of each size would have missed it.
    """

    ranks: Annotated[int, Field(ge=2)]
    nodes: Annotated[int, Field(ge=1)]
    nbytes: Annotated[tuple[NonNegative, ...], Field(min_length=1)]
    times_s: tuple[Positive, ...]
    missed: tuple[NonNegative, ...]

    @model_validator(mode="after")
    def _is_ordered(self) -> "Series":
        if list(self.nbytes) != sorted(set(self.nbytes)):
            raise ValueError("nbytes must grow")
        if not len(self.nbytes) == len(self.times_s) == len(self.missed):
            raise ValueError("nbytes, times_s and missed must be as many")
        return self

    @property
    def tier(self) -> Tier | None:
        """The one tier that its ranks meet at, or None if there are two."""
        return tier_of(self.ranks, self.nodes)

    def at(self, nbytes: float) -> tuple[float, float]:
        """Return the time of ``nbytes`` and its uncertainty."""
        sizes, times = self.nbytes, self.times_s
        place = bisect_left(sizes, nbytes)
        if place < len(sizes) and sizes[place] == nbytes:
            return times[place], LEAST_SIGMA
        floor = math.hypot(LEAST_SIGMA, MAD_TO_SIGMA * sorted(self.missed)[len(self.missed) // 2])
        if 0 < place < len(sizes):
            share = (nbytes - sizes[place - 1]) / (sizes[place] - sizes[place - 1])
            time_s = times[place - 1] + share * (times[place] - times[place - 1])
            return time_s, math.hypot(floor, NEARER * max(self.missed[place - 1 : place + 1]))
        if place == 0:
            away = math.log2(sizes[0] / max(nbytes, 1.0)) if sizes[0] else 0.0
            slope = _slope(sizes[:2], times[:2])
            time_s = max(times[0] - slope * (sizes[0] - nbytes), times[0] * nbytes / sizes[0] if sizes[0] else times[0])  # fmt: skip
        else:
            away = math.log2(nbytes / sizes[-1]) if sizes[-1] else 0.0
            time_s = times[-1] + _slope(sizes[-2:], times[-2:]) * (nbytes - sizes[-1])
        return time_s, math.hypot(floor, BEYOND_SIGMA * away)


class Fitted(Section):
    """``fixed_s + A(p) alpha_s + B(p) beta_s_per_byte n`` of ``form``, which has ``weight``."""

    form: Form
    weight: Positive
    fixed_s: NonNegative
    alpha_s: NonNegative
    beta_s_per_byte: NonNegative

    def parts_s(self, operation: Operation, ranks: int, nbytes: float) -> tuple[float, float]:
        """Return latency and transfer."""
        latencies, transfers = counts(operation, self.form, ranks)
        return self.fixed_s + latencies * self.alpha_s, transfers * self.beta_s_per_byte * nbytes


class SizeRange(Section):
    """The forms that explain what was measured up to ``up_to_nbytes``, the best of them first."""

    up_to_nbytes: Positive
    fitted: Annotated[tuple[Fitted, ...], Field(min_length=1)]


class TierModel(Section):
    """How an operation grows with the ranks that meet at one tier.

    ``sigma_per_doubling`` is what each doubling of ranks beyond those measured adds to the
    uncertainty.
    """

    ranges: Annotated[tuple[SizeRange, ...], Field(min_length=1)]
    ranks: Range
    sigma_per_doubling: NonNegative

    def fitted(self, nbytes: float) -> tuple[Fitted, ...]:
        """Return the forms for ``nbytes``."""
        for each in self.ranges:
            if nbytes <= each.up_to_nbytes:
                return each.fitted
        return self.ranges[-1].fitted

    def algorithm(self, nbytes: float) -> Form:
        """Return the algorithm that was recognised for ``nbytes``."""
        return self.fitted(nbytes)[0].form


class CollectiveModel(Section):
    """One operation, as it was measured and as it grows.

    ``is_pipelined`` says that a library was seen to work on both tiers at once, or not to; None that
    nobody looked.
    """

    operation: Operation
    series: Annotated[tuple[Series, ...], Field(min_length=1)]
    tiers: dict[Tier, TierModel]
    is_pipelined: bool | None = None
    source: str

    def beside(self, links: Collection[Tier]) -> "CollectiveModel | None":
        """Return what it says beside ``links`` of another machine: nothing of their tiers.

        What was measured over both tiers counts as the network's. None if nothing is left.
        """
        kept = tuple(each for each in self.series if (each.tier or Tier.NETWORK) not in links)
        tiers = {tier: model for tier, model in self.tiers.items() if tier not in links}
        return self.model_copy(update={"series": kept, "tiers": tiers}) if kept else None

    def slower(self, factor: float) -> "CollectiveModel":
        """Return it with all that was measured ``factor`` times as long."""
        series = tuple(
            each.model_copy(update={"times_s": tuple(factor * t for t in each.times_s)})
            for each in self.series
        )
        return self.model_copy(update={"series": series})

    def measured(self, ranks: int, nodes: int) -> Series | None:
        """Return the series of exactly these ranks and nodes."""
        return next((s for s in self.series if (s.ranks, s.nodes) == (ranks, nodes)), None)

    def on_tier(self, tier: Tier, ranks: int, nbytes: float) -> Estimate | None:
        """Return the time of ``ranks`` ranks that meet at ``tier``, or None if none were measured."""
        near = [each for each in self.series if each.tier is tier]
        model = self.tiers.get(tier)
        if not near or model is None:
            return None
        # Of series as near to it, that of the most ranks.
        nearest = min(near, key=lambda s: (abs(math.log(s.ranks / ranks)), -s.ranks))
        time_s, sigma = nearest.at(nbytes)
        latency_s, transfer_s, ratio, spread = self._grown(model, nearest.ranks, ranks, nbytes)
        doublings = max(
            0.0, math.log2(ranks / model.ranks.high), math.log2(model.ranks.low / ranks)
        )
        total_s = time_s * ratio
        share = latency_s / (latency_s + transfer_s) if latency_s + transfer_s else 1.0
        return Estimate(
            total_s * share, total_s * (1.0 - share),
            math.hypot(sigma, spread, model.sigma_per_doubling * doublings),
            doublings > 0 or not nearest.nbytes[0] <= nbytes <= nearest.nbytes[-1],
        )  # fmt: skip

    def _grown(
        self, model: TierModel, measured: int, ranks: int, nbytes: float
    ) -> tuple[float, float, float, float]:
        """Return the parts by the best form, and by all forms the mean ratio and its spread."""
        fitted = model.fitted(nbytes)
        latency_s, transfer_s = fitted[0].parts_s(self.operation, ranks, nbytes)
        logs: list[tuple[float, float]] = []
        for each in fitted:
            here, there = (sum(each.parts_s(self.operation, p, nbytes)) for p in (measured, ranks))
            if here > 0 and there > 0:
                logs.append((each.weight, math.log(there / here)))
        weight = sum(each for each, _ in logs)
        mean = sum(w * value for w, value in logs) / weight if logs else 0.0
        variance = sum(w * (value - mean) ** 2 for w, value in logs) / weight if logs else 0.0
        return latency_s, transfer_s, math.exp(mean), math.sqrt(variance)


def tier_of(ranks: int, nodes: int) -> Tier | None:
    """Return the one tier that the ranks meet at, or None if there are two."""
    if nodes == 1:
        return Tier.NODE
    return Tier.NETWORK if nodes == ranks else None


def _slope(sizes: tuple[float, ...], times_s: tuple[float, ...]) -> float:
    if len(sizes) < 2:
        return times_s[0] / sizes[0] if sizes[0] else 0.0
    return max(0.0, (times_s[1] - times_s[0]) / (sizes[1] - sizes[0]))
