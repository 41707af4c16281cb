"""A space reads what it writes, and holds what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.network import mlp
from exec.search.space import DIMENSIONS, Config, Range, Space, parse_space
from tests.exec.search.spaces import SPACES, TEXTS

PLAIN = {"layers": "1", "units": "10", "learning_rate": "0.5", "batch": "32", "epochs": "1"}
UNITS = st.floats(0, 1, exclude_max=True)


@given(TEXTS)
def test_spelled_space_parses_back(texts: dict[str, str]) -> None:
    space = parse_space(texts)
    assert parse_space(space.spelled()) == space


@given(SPACES, UNITS)
def test_every_draw_is_inside_and_of_its_type(space: Space, u: float) -> None:
    for name, dimension in space.dimensions.items():
        low, high = dimension.ends
        value = dimension.at(u)
        assert low <= value <= high
        assert isinstance(value, int) or not DIMENSIONS[name].is_whole


@given(SPACES, UNITS, UNITS)
def test_ranges_are_drawn_in_order(space: Space, u: float, v: float) -> None:
    for dimension in space.dimensions.values():
        if isinstance(dimension, Range):
            assert dimension.at(min(u, v)) <= dimension.at(max(u, v))


def test_whole_numbers_of_a_linear_range_are_equally_likely() -> None:
    drawn = [Range(3, 6, is_whole=True, is_log=False).at((i + 0.5) / 400) for i in range(400)]
    assert [drawn.count(value) for value in (3, 4, 5, 6)] == [100] * 4


def test_half_of_a_log_range_is_below_its_geometric_mean() -> None:
    dimension = Range(0.01, 1.0, is_whole=False, is_log=True)
    assert dimension.at(0.5) == pytest.approx(0.1, rel=1e-12)


def test_config_spells_its_network() -> None:
    assert Config(2, 50, 0.5, 32, 3).network(128, 26) == mlp(128, 50, 50, 26)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("units", "", "units must be whole numbers"),
        ("units", "10,", "units must be whole numbers"),
        ("units", "1.5", "units must be whole numbers"),
        ("units", "-3", "units must be whole numbers"),
        ("units", "ten", "units must be whole numbers"),
        ("units", "0", "units must be above 0"),
        ("units", "5:", "units must be whole numbers"),
        ("units", "5:9:2", "units must be a range LOW:HIGH"),
        ("units", "9:5", "got '9:5', which is empty"),
        ("units", "5:5", "got '5:5', which is empty"),
        ("units", "10,10", "units must name each value once"),
        ("units", "100000000", "at most 1e\\+07"),
        ("learning_rate", "nan", "learning-rate must be numbers"),
        ("learning_rate", "1..2", "learning-rate must be numbers"),
        ("learning_rate", "-0.5", "learning-rate must be above 0"),
        ("learning_rate", "0:1", "learning-rate must be above 0"),
        ("learning_rate", "1e999", "at most 1e\\+308"),
    ],
)
def test_bad_dimension_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_space(PLAIN | {name: text})


def test_unknown_and_missing_names_are_refused() -> None:
    with pytest.raises(UsageError, match="got 'unit'; did you mean 'units'"):
        parse_space(PLAIN | {"unit": "3"})
    with pytest.raises(UsageError, match="got no epochs"):
        parse_space({name: text for name, text in PLAIN.items() if name != "epochs"})
