"""The rectifier, the sigmoid and the sum, over their inputs and beside them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.nn.activation import ReLU
from exec.nn.addition import Add
from exec.nn.modules import Sigmoid
from tests.exec.nn.images import Array, normal

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
SIDES, SEEDS = st.integers(0, 5), st.integers(0, 2**32)
KINDS = pytest.mark.parametrize("kind", [ReLU, Sigmoid])


def by_definition(kind: type, a: Array) -> tuple[Array, Array]:
    """Return the function and its slope."""
    if kind is ReLU:
        return np.maximum(a, 0), np.where(a > 0, 1.0, 0.0)
    b = 1 / (1 + np.exp(-a))
    return b, b * (1 - b)


def module_of(kind: type, shape: tuple[int, ...], *rest: object) -> ReLU | Sigmoid:
    """Return a module."""
    return ReLU(*rest) if kind is ReLU else Sigmoid(np.full(shape, np.nan), *rest)  # type: ignore[arg-type]


@KINDS
@SETTINGS
@given(SIDES, SIDES, SIDES, SEEDS)
def test_all_forms_are_the_definition(kind: type, c: int, h: int, n: int, seed: int) -> None:
    a, gb = normal(seed, c, h, 2, n), normal(seed + 1, c, h, 2, n)
    a[a < -1] = 0.0
    b, slope = by_definition(kind, a)
    for rest, start in (
        ((), 0.0),
        ((np.empty_like(a), np.empty_like(a)), 0.0),
        ((np.empty_like(a), np.full_like(a, 0.5), True), 0.5),
    ):
        module, x, g = module_of(kind, a.shape, *rest), a.copy(), gb.copy()
        found = module.forward(x)
        assert found is (rest[0] if rest else x)
        np.testing.assert_allclose(found, b, rtol=0, atol=4 * 2.3e-16)
        gradient = module.backward(g)
        assert gradient is (rest[1] if rest else g)
        np.testing.assert_allclose(gradient, gb * slope + start, rtol=0, atol=2e-15)
        if rest:
            np.testing.assert_array_equal(x, a)
            np.testing.assert_array_equal(g, gb)


@pytest.mark.parametrize("adds", [False, True])
def test_blocks_make_no_difference(adds: bool) -> None:
    a, gb = normal(0, 5, 60, 60, 3), normal(1, 5, 60, 60, 3)
    place = np.full_like(a, 0.5)
    module = ReLU(np.empty_like(a), place, adds)
    np.testing.assert_array_equal(module.forward(a), np.maximum(a, 0))
    expected = np.where(a > 0, gb, 0.0) + 0.5 * adds
    np.testing.assert_array_equal(module.backward(gb), expected)


def test_sum_takes_the_place_of_its_first_input() -> None:
    a, b, gb, place = (normal(seed, 2, 3, 4, 5) for seed in range(4))
    module, first, before = Add(destinations=((place, True),)), a.copy(), place.copy()
    assert module.forward(first, b) is first
    np.testing.assert_array_equal(first, a + b)
    assert module.backward(gb) is gb
    np.testing.assert_array_equal(place, before + gb)


def test_sum_beside_its_inputs_gives_its_gradient_to_both() -> None:
    a, b, gb, one, other = (normal(seed, 2, 3, 4, 5) for seed in range(5))
    module, before = Add(np.empty_like(a), ((one, False), (other, True))), other.copy()
    np.testing.assert_array_equal(module.forward(a, b), a + b)
    module.backward(gb)
    np.testing.assert_array_equal(one, gb)
    np.testing.assert_array_equal(other, before + gb)
