"""The fit of collectives: which algorithm a library uses, recognised from how its times grow.

One procedure for all tables. For each operation and tier the sizes are cut into ranges, and in each
range every form of :mod:`calibration.collective_forms` is fitted to the times of all ranks
(non-negative, relative, robust). The cut and the forms are those with the least

    sum (r / 0.05)^2 + (k + 1) ln N

over ranges, where r are logarithms of measured over fitted, no larger than three, k the numbers of
a form, and N all measurements: the Bayesian information criterion at an error of 5 % (G. Schwarz,
"Estimating the dimension of a model", Ann. Stat. 6 (1978) 461-464), by dynamic programming. Forms
that explain a range about as well keep the weight exp(-cost / 2) that the criterion gives them, so
that a forecast for many ranks knows how far apart they are.

The uncertainty of more ranks is measured where it can be: from the series of fewer ranks, the fit
forecasts the one of most, and what that misses for each doubling is what every doubling beyond
will.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from calibration.collective_forms import FORMS, Form, counts
from calibration.collective_model import (
    BEYOND_SIGMA,
    CollectiveModel,
    Fitted,
    Series,
    SizeRange,
    TierModel,
    tier_of,
)
from calibration.collective_tiers import UNTOLD_SIGMA
from calibration.fit import robust_relative_fit
from calibration.importers.measured import Measured, Operation
from calibration.section import Range, Tier

_ERROR = 0.05
_LARGEST = 3.0  # a residual in units of the error
_LEAST_WEIGHT = 0.01
_LAST = float(1 << 62)
_Points = dict[float, list[tuple[int, float]]]


def fit_collectives(found: Sequence[Measured], source: str) -> dict[Operation, CollectiveModel]:
    """Return a model of every operation in ``found``; what was measured twice counts by its median.

    One without forms, as a message, is not taken to other ranks.
    """
    by_operation: dict[Operation, list[Measured]] = defaultdict(list)
    for each in found:
        by_operation[each.operation].append(each)
    return {operation: _model(operation, own, source) for operation, own in by_operation.items()}


def _model(operation: Operation, found: Sequence[Measured], source: str) -> CollectiveModel:
    times: dict[tuple[int, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in found:
        times[each.ranks, each.nodes][float(each.nbytes)].append(each.time_s)
    series = [
        _series(ranks, nodes, {n: float(np.median(t)) for n, t in sorted(by_size.items())})
        for (ranks, nodes), by_size in sorted(times.items())
    ]
    tiers = {}
    for tier in Tier:
        own = [each for each in series if tier_of(each.ranks, each.nodes) is tier]
        if own and operation in FORMS:
            tiers[tier] = _tier_model(operation, own)
    model = CollectiveModel(operation=operation, series=tuple(series), tiers=tiers, source=source)
    return model.model_copy(update={"is_pipelined": _is_pipelined(model)})


def _is_pipelined(model: CollectiveModel) -> bool | None:
    """Say whether what was measured over both tiers is nearer to both at once than to one by one.

    None where one of the three was not measured.
    """
    after, at_once = [], []
    for series in model.series:
        if series.tier is not None:
            continue
        for nbytes, time_s in zip(series.nbytes, series.times_s, strict=True):
            inside = model.on_tier(Tier.NODE, -(-series.ranks // series.nodes), nbytes)
            between = model.on_tier(Tier.NETWORK, series.nodes, nbytes)
            if inside is None or between is None:
                return None
            rest_s = min(inside.transfer_s, between.transfer_s)
            both_s = inside.time_s + between.time_s
            after.append(abs(math.log(both_s / time_s)))
            at_once.append(abs(math.log((both_s - rest_s) / time_s)))
    return float(np.median(at_once)) < float(np.median(after)) if after else None


def _series(ranks: int, nodes: int, times: dict[float, float]) -> Series:
    sizes = list(times)
    missed = [0.0] * len(sizes)
    for i in range(1, len(sizes) - 1):
        share = (sizes[i] - sizes[i - 1]) / (sizes[i + 1] - sizes[i - 1])
        left_out_s = times[sizes[i - 1]] + share * (times[sizes[i + 1]] - times[sizes[i - 1]])
        missed[i] = abs(math.log(left_out_s / times[sizes[i]]))
    if len(sizes) > 2:
        missed[0], missed[-1] = missed[1], missed[-2]
    else:
        missed = [BEYOND_SIGMA] * len(sizes)
    return Series(
        ranks=ranks, nodes=nodes, nbytes=tuple(sizes), times_s=tuple(times.values()),
        missed=tuple(missed),
    )  # fmt: skip


def _tier_model(operation: Operation, series: Sequence[Series]) -> TierModel:
    ranks = sorted({each.ranks for each in series})
    return TierModel(
        ranges=_ranges(operation, series),
        ranks=Range(low=ranks[0], high=ranks[-1]),
        sigma_per_doubling=_missed_per_doubling(operation, series),
    )


def _missed_per_doubling(operation: Operation, series: Sequence[Series]) -> float:
    """Return what a fit to all ranks but the most misses of those, for each doubling."""
    ranks = sorted({each.ranks for each in series})
    if len(ranks) < 3:
        return UNTOLD_SIGMA
    kept = [each for each in series if each.ranks < ranks[-1]]
    most = next(each for each in series if each.ranks == ranks[-1])
    model = CollectiveModel(
        operation=operation, series=tuple(kept), source="",
        tiers={tier: TierModel(ranges=_ranges(operation, kept), ranks=Range(low=ranks[0], high=ranks[-2]), sigma_per_doubling=0.0)
               for tier in Tier},
    )  # fmt: skip
    tier = most.tier
    assert tier is not None
    errors = []
    for nbytes, time_s in zip(most.nbytes, most.times_s, strict=True):
        estimate = model.on_tier(tier, most.ranks, nbytes)
        assert estimate is not None
        if estimate.time_s:  # of no bytes, where only some were measured, nothing is told
            errors.append(math.log(estimate.time_s / time_s))
    if not errors:
        return UNTOLD_SIGMA
    return float(np.sqrt(np.mean(np.square(errors)))) / math.log2(ranks[-1] / ranks[-2])


def _ranges(operation: Operation, series: Sequence[Series]) -> tuple[SizeRange, ...]:
    """Return the cut of the sizes into ranges, and the forms of each, of least cost."""
    points: _Points = defaultdict(list)
    for each in series:
        for nbytes, time_s in zip(each.nbytes, each.times_s, strict=True):
            points[nbytes].append((each.ranks, time_s))
    sizes = sorted(points)
    total = sum(map(len, points.values()))
    num_ranks = len({each.ranks for each in series})
    least = 2 if len(sizes) > 3 else len(sizes)

    @cache
    def fitted(first: int, last: int) -> tuple[tuple[float, Fitted], ...]:
        rows = [(n, p, t) for n in sizes[first:last] for p, t in points[n]]
        # Forms that nothing tells apart are one.
        forms = FORMS[operation] if num_ranks > 1 else FORMS[operation][:1]
        found = [_fit_form(operation, form, rows, total) for form in forms]
        return tuple(sorted(found, key=lambda each: each[0]))

    best: list[tuple[float, int]] = [(0.0, 0)]
    for last in range(1, len(sizes) + 1):
        options = [
            (best[first][0] + fitted(first, last)[0][0], first)
            for first in range(last - least + 1)
            if best[first][0] < math.inf
        ]
        best.append(min(options, default=(math.inf, 0)))
    cuts = [len(sizes)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    cuts.reverse()
    return tuple(
        SizeRange(
            up_to_nbytes=_LAST if last == len(sizes) else max(math.sqrt(sizes[last - 1] * sizes[last]), 1.0),
            fitted=_weighed(fitted(first, last)),
        )
        for first, last in pairwise(cuts)
    )  # fmt: skip


def _fit_form(
    operation: Operation, form: Form, rows: Sequence[tuple[float, int, float]], total: int
) -> tuple[float, Fitted]:
    """Return the cost of ``form`` on ``rows`` of bytes, ranks and seconds, and the form fitted."""
    factors = [counts(operation, form, ranks) for _, ranks, _ in rows]
    matrix = np.array([[1.0, a, b * nbytes] for (a, b), (nbytes, _, _) in zip(factors, rows, strict=True)])  # fmt: skip
    times_s = np.array([time_s for _, _, time_s in rows])
    if len({ranks for _, ranks, _ in rows}) < 2:
        matrix[:, 0] = 0.0  # a fixed cost and a latency are one where all ranks are as many
    (fixed_s, alpha_s, beta), residuals = robust_relative_fit(matrix, times_s)
    errors = np.minimum(np.abs(residuals) / _ERROR, _LARGEST)
    size = int(np.count_nonzero([fixed_s, alpha_s, beta]))
    fitted = Fitted(form=form, weight=1.0, fixed_s=float(fixed_s), alpha_s=float(alpha_s), beta_s_per_byte=float(beta))  # fmt: skip
    return float(np.sum(errors**2)) + (size + 1) * math.log(max(total, 2)), fitted


def _weighed(found: Sequence[tuple[float, Fitted]]) -> tuple[Fitted, ...]:
    """Return the forms with their weights, without those that explain nothing beside the best."""
    least = found[0][0]
    weights = [math.exp(-(cost - least) / 2.0) for cost, _ in found]
    kept = [
        each.model_copy(update={"weight": weight / sum(weights)})
        for weight, (_, each) in zip(weights, found, strict=True)
        if weight >= _LEAST_WEIGHT
    ]
    return tuple(kept)
