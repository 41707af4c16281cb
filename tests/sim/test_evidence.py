"""What errors, intervals and rankings come to."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.evidence import Judged, ranked_pairs, verdict_of

TIMES = st.floats(1e-6, 1e3)


def judged(measured_s: float, forecast_s: float, spread: float | None = None) -> Judged:
    """Return a case with an interval of a tenth to either side."""
    return Judged("", "one", measured_s, forecast_s, forecast_s * 0.9, forecast_s * 1.1, spread)


@given(st.lists(TIMES, min_size=1))
def test_perfect_forecasts_have_no_error_no_bias_and_full_coverage(times: list[float]) -> None:
    verdict = verdict_of([judged(each, each) for each in times])
    assert (verdict.median_error, verdict.p90_error, verdict.coverage) == (0, 0, 1)
    assert verdict.bias == pytest.approx(0, abs=1e-12)
    assert verdict.num_ranked_right == verdict.num_ranked


def test_errors_are_shares_of_what_was_measured() -> None:
    verdict = verdict_of([judged(1.0, 1.1), judged(2.0, 1.0), judged(4.0, 4.0)])
    assert verdict.median_error == pytest.approx(0.1, rel=1e-9)
    assert verdict.p90_error == pytest.approx(0.5, rel=1e-9)
    assert verdict.coverage == pytest.approx(2 / 3, rel=1e-12)  # 1.0 is in 0.99 to 1.21


def test_one_in_ten_errors_is_above_the_ninetieth_percentile() -> None:
    verdict = verdict_of([judged(1.0, 1.0 + each / 100) for each in range(1, 11)])
    assert verdict.p90_error == pytest.approx(0.09, rel=1e-9)


@given(TIMES)
def test_half_and_twice_as_long_cancel_in_the_bias(time_s: float) -> None:
    verdict = verdict_of([judged(time_s, 2 * time_s), judged(time_s, time_s / 2)])
    assert verdict.bias == pytest.approx(0, abs=1e-9)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=2, max_size=8))
def test_ranks_turned_round_are_all_wrong(pairs: list[tuple[float, float]]) -> None:
    cases = [judged(measured, forecast) for measured, forecast in pairs]
    turned = [judged(measured, 1 / forecast) for measured, forecast in pairs]
    for one, other in zip(ranked_pairs(cases), ranked_pairs(turned), strict=True):
        assert not (one and other)


def test_pairs_within_the_noise_and_of_other_groups_are_not_ranked() -> None:
    close = [judged(1.0, 1.0, 0.1), judged(1.15, 0.5, 0.1)]
    assert list(ranked_pairs(close)) == []
    apart = [judged(1.0, 1.0, 0.01), judged(1.15, 0.5, 0.01)]
    assert list(ranked_pairs(apart)) == [False]
    other = Judged("", "other", 9.0, 1.0, 0, inf, 0.0)
    assert list(ranked_pairs([*close, other])) == []
