"""The makespan obeys the bounds of list scheduling, and the forecast what was measured."""

import heapq
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.search.forecast import check_last, forecast_rows, gap_s
from exec.search.journal import Contents
from exec.search.makespan import forecast_makespan, list_schedule, lower_bound_s
from exec.search.record import SessionStart
from tests.exec.search.spaces import result

LENGTHS = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)
GROUPS = st.integers(1, 14)
REL = 1e-9  # a dozen additions in float64, in another order


def by_heap(lengths: list[float], num_groups: int) -> float:
    """Return the makespan as a pool does it: whoever is free first takes the next."""
    free = [0.0] * num_groups
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


@given(LENGTHS, GROUPS)
def test_list_schedule_is_what_a_pool_does(lengths: list[float], num_groups: int) -> None:
    found = float(list_schedule(np.array(lengths), num_groups))
    assert found == pytest.approx(by_heap(lengths, num_groups), rel=REL)


@given(LENGTHS, GROUPS)
def test_graham_s_bound_holds(lengths: list[float], num_groups: int) -> None:
    array = np.array(lengths)
    found = float(list_schedule(array, num_groups))
    assert found >= lower_bound_s(array, num_groups) * (1 - REL)
    mean, longest = array.sum() / num_groups, array.max()
    assert found <= (mean + (1 - 1 / num_groups) * longest) * (1 + REL)  # Graham's equation


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(1, 3))
def test_list_schedule_is_within_two_less_1_over_m_of_the_best(
    lengths: list[float], num_groups: int
) -> None:
    # The best order makes list scheduling optimal, so that the least over all orders is the optimum.
    best = min(by_heap(list(order), num_groups) for order in permutations(lengths))
    assert by_heap(lengths, num_groups) <= (2 - 1 / num_groups) * best * (1 + REL)


def test_graham_s_worst_case_is_reached() -> None:
    # m (m - 1) trials of length 1 and one of m: 2 m - 1 in this order, m in the best.
    for m in (2, 3, 4):
        lengths = np.array([1.0] * (m * (m - 1)) + [m])
        assert list_schedule(lengths, m) == 2 * m - 1
        assert list_schedule(lengths[::-1], m) == m


@given(LENGTHS, st.integers(1, 6), st.integers(0, 2**32))
def test_interval_holds_the_forecast_and_is_of_trials_that_were_measured(
    lengths: list[float], num_groups: int, seed: int
) -> None:
    found = forecast_makespan(lengths, num_groups, seed=seed)
    assert found == forecast_makespan(lengths, num_groups, seed=seed)
    assert found.time_s == pytest.approx(by_heap(lengths, num_groups), rel=REL)
    assert found.low_s <= found.time_s <= found.high_s
    assert min(lengths) * (1 - REL) <= found.low_s
    assert found.high_s <= max(lengths) * len(lengths) * (1 + REL)
    assert 0 < found.efficiency <= 1 + REL


def test_equal_trials_leave_no_doubt() -> None:
    found = forecast_makespan([2.0] * 7, 3, gap_s=0.5)
    assert (found.low_s, found.time_s, found.high_s) == (7.0, 7.0, 7.0)  # three trials and two gaps
    assert found.bound_s == pytest.approx(14 / 3, rel=REL)


def test_more_trials_than_measured_take_as_much_longer() -> None:
    found = forecast_makespan([1.0, 3.0], 1, num_trials=400)
    assert found.low_s < 800 < found.high_s
    assert found.time_s == pytest.approx(
        800, rel=0.02
    )  # 400 draws of deviation 1: 20; half of that is 1.3 %


def contents(ranks_per_trial: int = 1, trials: int = 4, **search: object) -> Contents:
    """Return a search on two groups: trials of 1, 3, 1 and 1 s, with half a second between them."""
    found = Contents(head={"search": {"units": "10", "ranks_per_trial": ranks_per_trial, **search}})
    found.add(SessionStart(session=0, ranks=3, num_groups=2, trials=trials, date="", oversubscribed=False))  # fmt: skip
    for index, (start_s, time_s, group) in enumerate([(0, 1, 0), (0, 3, 1), (1.5, 1, 0), (3, 1, 0)]):  # fmt: skip
        found.add(result(index, start_s=start_s, time_s=time_s, group=group))
    return found


def test_finished_session_is_checked_against_its_forecast() -> None:
    check = check_last(contents())
    assert check is not None
    assert check.measured_s == 4.0
    assert check.makespan.time_s == 4.0  # 1 + 0.5 + 1 + 0.5 + 1
    assert gap_s(contents()) == 0.5
    assert check_last(contents(trials=5)) is None


def test_forecast_of_other_ranks_uses_the_groups_that_they_form() -> None:
    rows = forecast_rows([contents(1), contents(2)], [1, 2, 5])
    assert [(row.ranks, row.ranks_per_trial, row.makespan.num_groups) for row in rows] == [
        (1, 1, 1), (1, 2, 1), (2, 1, 1), (5, 1, 4), (5, 2, 2),
    ]  # fmt: skip
    assert rows[3].makespan.time_s == 3.0


def test_only_alike_searches_are_compared() -> None:
    with pytest.raises(UsageError, match="got batch 32 and 64"):
        forecast_rows([contents(1, batch="32"), contents(2, batch="64")], [5])
    with pytest.raises(UsageError, match="ranks must be at least 3 somewhere, got 2"):
        forecast_rows([contents(2)], [2])
    with pytest.raises(UsageError, match="at least one finished trial"):
        forecast_rows([Contents(head={"search": {"ranks_per_trial": 1}})], [2])
