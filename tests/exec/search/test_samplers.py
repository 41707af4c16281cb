"""Samplers cover what they promise, and forget nothing when a search goes on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.search.samplers import count_trials, grid_config, make_sampler, random_config
from exec.search.space import Space, parse_space
from tests.exec.search.spaces import GRIDS, SMALL, SPACES, is_in, result

SEEDS = st.integers(0, 2**64)


@given(GRIDS)
def test_grid_visits_each_point_once(space: Space) -> None:
    visited = [grid_config(space, index) for index in range(count_trials("grid", space, None))]
    lists = [dimension.values for dimension in space.dimensions.values()]
    expected = [
        space.config(dict(zip(space.dimensions, point, strict=True)))
        for point in itertools.product(*lists)
    ]
    assert visited == expected


@given(SPACES, SEEDS, st.integers(0, 10**6))
def test_random_trial_is_a_point_that_depends_on_seed_and_index_only(
    space: Space, seed: int, index: int
) -> None:
    config = random_config(space, seed, index)
    assert is_in(space, config)
    sample = make_sampler("random", space, seed)
    assert sample(index, [result(7)], {8: config}) == config == sample(index, [], {})


def test_other_seeds_and_other_indices_draw_other_points() -> None:
    drawn = {random_config(SMALL, seed, index) for seed in range(10) for index in range(10)}
    assert len(drawn) == 100


def test_a_dimension_s_draws_do_not_change_with_another() -> None:
    other = parse_space(SMALL.spelled() | {"units": "7"})
    for index in range(20):
        one, two = (random_config(space, 3, index) for space in (SMALL, other))
        assert (one.layers, one.learning_rate) == (two.layers, two.learning_rate)


def test_grid_refuses_a_range_and_more_trials_than_points() -> None:
    with pytest.raises(UsageError, match="units must be values joined by ',' for a grid, got 5:50"):
        make_sampler("grid", SMALL, 0)
    grid = parse_space(SMALL.spelled() | {"units": "5,6", "learning_rate": "1"})
    assert count_trials("grid", grid, None) == 4
    assert count_trials("grid", grid, 3) == 3
    with pytest.raises(UsageError, match="at most the 4 points of the grid, got 5"):
        count_trials("grid", grid, 5)


def test_unknown_sampler_is_refused() -> None:
    with pytest.raises(UsageError, match="got 'radom'; did you mean 'random'"):
        make_sampler("radom", SMALL, 0)


def test_optuna_suggests_the_same_when_told_the_same() -> None:
    pytest.importorskip("optuna", reason="needs the tune extra")
    told = [
        result(index, None if index == 4 else 0.1 * (index % 7), config=random_config(SMALL, 0, index))
        for index in range(14)
    ]  # fmt: skip
    running = {20: random_config(SMALL, 0, 20)}
    once, again = (make_sampler("tpe", SMALL, 5) for _ in range(2))
    suggested = once(14, told, running)
    assert is_in(SMALL, suggested)
    once(15, told, running)  # what was asked before makes no difference
    assert once(14, told[::-1], running) == suggested == again(14, told, running)
    assert once(14, told[:11], running) != suggested


def test_optuna_learns_where_the_accuracy_is_high() -> None:
    pytest.importorskip("optuna", reason="needs the tune extra")
    told = []
    for index in range(60):
        config = random_config(SMALL, 1, index)
        told.append(result(index, 1 - abs(config.units - 40) / 50, config=config))
    sample = make_sampler("tpe", SMALL, 5)
    suggested = [sample(index, told, {}).units for index in range(60, 70)]
    assert sum(abs(units - 40) <= 10 for units in suggested) >= 8
