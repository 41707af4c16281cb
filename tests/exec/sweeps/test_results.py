"""What many runs come to: medians, extremes, and over what a speedup is."""

import pytest
from rich.console import Console

from exec.sweeps.results import Spread, results_of, speedup
from exec.sweeps.table import print_results
from tests.exec.sweeps.made_up import line


def test_runs_that_differ_in_the_seed_are_one_result() -> None:
    (found,) = results_of([line(4.0, 0.5, seed=7), line(1.0, 0.7, seed=8), line(2.0, 0.6, seed=9)])
    assert found.cell == {"ranks": 1}
    assert found.epoch_time_s == Spread(2.0, 1.0, 4.0)
    assert found.test_accuracy == Spread(0.6, 0.5, 0.7)
    assert found.curve() == [(2.0, 0.3), (4.0, 0.6)]


def test_speedup_is_over_the_fewest_ranks_of_the_same_other_axes() -> None:
    results = results_of(
        [
            line(8.0, ranks=1, batch=16), line(6.0, ranks=1, batch=32), line(4.0, ranks=2, batch=16),
            line(1.0, ranks=4, batch=32), line(2.0, ranks=4, batch=32, seed=1), line(None, ranks=8, batch=32),
        ]
    )  # fmt: skip
    found = [speedup(result, results) for result in results]
    assert [each and each.times.middle for each in found] == [1.0, 1.0, 2.0, 4.0, None]
    assert found[3] is not None
    assert (found[3].times.low, found[3].times.high) == (3.0, 6.0)


def test_refused_run_is_no_base() -> None:
    results = results_of([line(None, ranks=1), line(3.0, ranks=2), line(1.0, ranks=4)])
    found = speedup(results[2], results)
    assert found is not None
    assert (found.base.ranks, found.times.middle) == (2, 3.0)


def test_strategy_that_needs_two_ranks_is_compared_with_another_on_one() -> None:
    results = results_of(
        [
            line(6.0, ranks=1, batch=8, strategy="data"), line(9.0, ranks=1, batch=9, strategy="data"),
            line(None, ranks=1, batch=8, strategy="server"), line(3.0, ranks=2, batch=8, strategy="server"),
        ]
    )  # fmt: skip
    found = speedup(results[3], results)
    assert found is not None
    assert found.base is results[0]
    assert found.times.middle == 2.0


def test_table_has_a_row_for_each_cell_and_says_what_is_odd() -> None:
    out = Console(width=200, highlight=False)
    results = results_of(
        [line(2.0, 0.25, ranks=2), line(1.0, 0.75, ranks=4, over=True), line(None, ranks=8)]
    )
    with out.capture() as captured:
        print_results(out, results, "threads")
    rows = captured.get().splitlines()
    assert rows[0].split() == ["threads", "s", "an", "epoch", "speedup", "test", "accuracy"]
    assert rows[1].split() == ["2", "2", "1.00", "25.00%", "speedup", "over", "2", "threads"]
    assert rows[2].split() == [
        "4",
        "1",
        "2.00",
        "75.00%",
        "oversubscribed;",
        "speedup",
        "over",
        "2",
        "threads",
    ]
    assert rows[3].split() == ["8", "refused:", "it", "cannot", "be"]


def test_table_tells_the_spread_of_repeated_runs() -> None:
    out = Console(width=200, highlight=False)
    results = results_of([line(2.0), line(4.0, seed=1), line(None, seed=2)])
    with out.capture() as captured:
        print_results(out, results, "ranks")
    row = " ".join(captured.get().splitlines()[1].split())
    assert (
        row == "1 3 2 to 4 1.00 0.75 to 1.50 50.00% 50.00% to 50.00% refused 1 times: it cannot be"
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_curve_is_as_long_as_the_shortest_run(count: int) -> None:
    (found,) = results_of([line(1.0, seed=seed) for seed in range(count)])
    assert [time_s for time_s, _ in found.curve()] == [1.0, 2.0]
