"""Products of strided views against NumPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.nn.gemm import gemm, product

SIDES, SEEDS, SCALES = st.integers(0, 6), st.integers(0, 2**32), st.sampled_from([0.0, 1.0, -0.5])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, SCALES, SCALES, st.booleans(), st.booleans(), SEEDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_product_of_views_changes_the_view_alone(
    dtype: type, m: int, k: int, n: int, alpha: float, beta: float, turn_a: bool, turn_b: bool, seed: int
) -> None:  # fmt: skip
    # Small whole numbers: every product and sum is exact.
    draw = np.random.Generator(np.random.PCG64(seed)).integers
    a, b = (
        (draw(-4, 5, (y + 2, x + 3))[1 : y + 1, 2 : x + 2].astype(dtype).T if turned
         else draw(-4, 5, (x + 2, y + 3)).astype(dtype)[1 : x + 1, 2 : y + 2])
        for x, y, turned in ((m, k, turn_a), (k, n, turn_b))
    )  # fmt: skip
    whole = draw(-4, 5, (m + 2, n + 4)).astype(dtype)
    expected = whole.copy()
    view = expected[1 : m + 1, 3 : n + 3]
    view[...] = alpha * (a @ b) + beta * view
    gemm(alpha, a, b, beta, whole[1 : m + 1, 3 : n + 3])()
    np.testing.assert_array_equal(whole, expected)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, st.booleans(), st.booleans(), SEEDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_product_of_matrices_is_numpy_s_and_in_place(
    dtype: type, m: int, k: int, n: int, turn_a: bool, turn_b: bool, seed: int
) -> None:
    draw = np.random.Generator(np.random.PCG64(seed)).integers
    a, b = (
        draw(-4, 5, (y, x)).astype(dtype).T if turned else draw(-4, 5, (x, y)).astype(dtype)
        for x, y, turned in ((m, k, turn_a), (k, n, turn_b))
    )
    found = np.full((m, n), np.nan, dtype)
    product(a, b, found)()
    np.testing.assert_array_equal(found, a @ b)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("side", [90, 130, 170])
def test_products_of_all_sizes_agree(side: int, *, turned: bool) -> None:
    draw = np.random.Generator(np.random.PCG64(side)).integers
    a, b = (draw(-4, 5, (side, side)).astype(np.float32) for _ in range(2))
    b = b.T if turned else b
    found = np.empty_like(a)
    product(a, b, found)()
    np.testing.assert_array_equal(found, a @ b)


def test_what_blas_cannot_do_is_refused() -> None:
    square = np.zeros((4, 4))
    with pytest.raises(ValueError, match="fit"):
        gemm(1.0, square[:, :3], square, 1.0, square)
    with pytest.raises(ValueError, match="fit"):
        gemm(1.0, square.astype(np.float32), square, 1.0, square)
    with pytest.raises(ValueError, match="rows must be contiguous"):
        gemm(1.0, square, square, 1.0, square.T)
    with pytest.raises(ValueError, match="contiguous rows or columns"):
        gemm(1.0, np.zeros((8, 8))[::2, ::2], square, 1.0, square)
    with pytest.raises(ValueError, match="contiguous rows or columns"):
        gemm(1.0, np.broadcast_to(np.zeros(4), (4, 4)), square, 1.0, square)
