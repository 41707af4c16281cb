"""Cells: the product of the axes, each combination once for each seed, in the order of fairness."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.sweeps.cells import Axis, arguments, cells, key_of, parse_list, parse_vary

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)
scalars = st.one_of(
    st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4, unique=True),
    st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True),
    st.just([True, False]),
)
names = st.lists(st.sampled_from(["batch", "learning_rate", "strategy", "dp"]), unique=True)


@st.composite
def axes_of_a_sweep(draw: st.DrawFn) -> list[Axis]:
    ranks = draw(st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True))
    lists = [("ranks", ranks), *((name, draw(scalars)) for name in draw(names))]
    return [Axis(name, f"--{name}", tuple(values), tuple(f"<{value}>" for value in values)) for name, values in lists]  # fmt: skip


seeds = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)


@SETTINGS
@given(axes_of_a_sweep(), seeds)
def test_every_combination_comes_once_for_each_seed(axes: list[Axis], seeds: list[int]) -> None:
    found = list(cells(axes, seeds))
    assert len(found) == math.prod(len(axis.values) for axis in axes) * len(seeds)
    assert len({key_of(cell) for cell in found}) == len(found)
    for cell in found:
        assert list(cell) == [*(axis.name for axis in axes), "seed"]
        assert all(cell[axis.name] in axis.values for axis in axes)


@SETTINGS
@given(axes_of_a_sweep(), seeds)
def test_all_cells_have_run_with_one_seed_before_any_runs_with_the_next(
    axes: list[Axis], seeds: list[int]
) -> None:
    found = list(cells(axes, seeds))
    rounds = [list(own) for _, own in itertools.groupby(found, lambda cell: cell["seed"])]
    assert [own[0]["seed"] for own in rounds] == seeds
    first = [cell | {"seed": 0} for cell in rounds[0]]
    assert all([cell | {"seed": 0} for cell in own] == first for own in rounds)


@SETTINGS
@given(axes_of_a_sweep(), seeds)
def test_a_speedup_s_cells_run_one_after_another(axes: list[Axis], seeds: list[int]) -> None:
    found = list(cells(axes, seeds))
    size = len(axes[0].values)
    for start in range(0, len(found), size):
        own = found[start : start + size]
        assert tuple(cell["ranks"] for cell in own) == axes[0].values
        assert len({key_of(cell | {"ranks": 0}) for cell in own}) == 1


@SETTINGS
@given(axes_of_a_sweep())
def test_trainer_gets_what_the_user_wrote(axes: list[Axis]) -> None:
    for cell in cells(axes, [3]):
        expected = [f"{axis.option}=<{cell[axis.name]}>" for axis in axes[1:]]
        assert arguments(cell, axes) == [*expected, "--seed=3"]


@pytest.mark.parametrize(
    ("text", "values"),
    [("1,2", ["1", "2"]), (" 1 ,2 ", ["1", "2"]), ('"0=2,1=3",0=1', ["0=2,1=3", "0=1"]), ("a", ["a"])],
)  # fmt: skip
def test_list_is_joined_by_commas_and_a_comma_is_quoted(text: str, values: list[str]) -> None:
    assert parse_list("slow", text) == values


@pytest.mark.parametrize("text", ["", " ", ",", "1,", ",1", "1,,2", '"1', "1\n2"])
def test_list_without_values_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^batch must be values joined by commas, got "):
        parse_list("batch", text)


def test_vary_splits_at_its_first_equals_sign() -> None:
    assert parse_vary("slow=1=1.0,1=2.0") == ("slow", ["1=1.0", "1=2.0"])


@pytest.mark.parametrize("text", ["momentum", "=1,2", "", " =1"])
def test_vary_without_a_name_or_values_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^vary must be NAME=V1,V2, got "):
        parse_vary(text)
