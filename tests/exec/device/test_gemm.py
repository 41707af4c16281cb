"""Products as column-major BLAS is asked for them are the products that were meant."""

import itertools

import numpy as np
import pytest

from exec.device.array import DeviceArray
from exec.device.gemm import Factor, gemm_of
from exec.device.product_choice import (
    Choice,
    ProductRoute,
    Tuning,
    alignment_of,
    choice_key,
)


def matrix(numbers: np.ndarray, shape: tuple[int, int], is_transposed: bool) -> DeviceArray:
    stored = DeviceArray(numbers, numbers.ctypes.data, shape, numbers.dtype)
    return stored.T if is_transposed else stored


def column_major(numbers: np.ndarray, rows: int, columns: int, leading: int) -> np.ndarray:
    """Return what BLAS reads at the start of ``numbers``."""
    size = numbers.itemsize
    return np.lib.stride_tricks.as_strided(numbers, (rows, columns), (size, leading * size))


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("is_a", [False, True])
@pytest.mark.parametrize("is_b", [False, True])
def test_blas_computes_what_was_meant(is_a: bool, is_b: bool, gap: int) -> None:
    m, n, k = 3, 4, 5
    lengths = (m if is_a else k, k if is_b else n, n)
    rows = (k if is_a else m, n if is_b else k, m)
    generator = np.random.default_rng(0)
    a, b, c = (
        generator.standard_normal((many, length + gap))
        for many, length in zip(rows, lengths, strict=True)
    )
    gemm = gemm_of(
        matrix(a, (rows[0], lengths[0]), is_a), matrix(b, (rows[1], lengths[1]), is_b),
        matrix(c, (m, n), False), tuple(each + gap for each in lengths),
    )  # fmt: skip

    def read(factor: Factor, numbers: np.ndarray) -> np.ndarray:
        assert factor.pointer == numbers.ctypes.data
        found = column_major(numbers, factor.rows, factor.columns, factor.leading)
        return found.T if factor.is_transposed else found

    left, right = read(gemm.left, b), read(gemm.right, a)
    assert (left.shape, right.shape) == ((gemm.m, gemm.k), (gemm.k, gemm.n))
    column_major(c, gemm.m, gemm.n, gemm.c_leading)[...] = left @ right
    meant_a, meant_b = a[:, : lengths[0]], b[:, : lengths[1]]
    expected = (meant_a.T if is_a else meant_a) @ (meant_b.T if is_b else meant_b)
    np.testing.assert_allclose(c[:, :n], expected, rtol=0, atol=1e-14)


def test_leading_dimensions_are_at_least_one_and_at_least_the_rows() -> None:
    empty = np.zeros(0)
    gemm = gemm_of(
        matrix(empty, (3, 0), False),
        matrix(empty, (0, 0), False),
        matrix(empty, (3, 0), False),
        None,
    )
    assert (gemm.left.leading, gemm.right.leading, gemm.c_leading) == (1, 1, 1)
    square = matrix(np.zeros(4), (2, 2), False)
    with pytest.raises(ValueError, match="leading of b must be at least 2, got 1"):
        gemm_of(square, square, square, (2, 1, 2))


def test_what_blas_cannot_do_is_refused() -> None:
    numbers, whole = np.zeros(4), np.zeros(4, np.int32)
    square = matrix(numbers, (2, 2), False)
    with pytest.raises(ValueError, match="c must not be transposed"):
        gemm_of(square, square, square.T, None)
    integers = matrix(whole, (2, 2), False)
    with pytest.raises(ValueError, match="float32 or float64, got int32"):
        gemm_of(integers, integers, integers, None)


def test_what_differs_for_an_algorithm_has_a_key_of_its_own() -> None:
    numbers = np.zeros(100, np.float32)
    whole = matrix(numbers[:36], (6, 6), False)
    moved = DeviceArray(numbers, whole.pointer + 4, (6, 6), whole.dtype)
    wide = DeviceArray(numbers, whole.pointer, (6, 5), whole.dtype)
    doubles = matrix(np.zeros(36), (6, 6), False)
    keys = [
        choice_key(gemm, is_tf32=is_tf32, is_added=is_added)
        for is_tf32, is_added in itertools.product((False, True), repeat=2)
        for gemm in (
            gemm_of(whole, whole, whole, None), gemm_of(whole.T, whole, whole, None),
            gemm_of(whole, whole.T, whole, None), gemm_of(moved, whole, whole, None),
            gemm_of(whole, wide, wide, None), gemm_of(whole, wide, wide, (6, 6, 5)),
        )
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    exact = gemm_of(doubles, doubles, doubles, None)  # which TF32 does not touch
    assert len({choice_key(exact, is_tf32=each, is_added=False) for each in (False, True)}) == 1


def test_choices_are_told_to_other_ranks_as_text() -> None:
    tuning = Tuning(
        choices={
            "a": Choice(ProductRoute.CUBLASLT, bytes(range(64))),
            "b": Choice(ProductRoute.OWN),
        }
    )
    told = Tuning.imported(tuning.exported())
    assert told.choices == tuning.choices
    assert told.num_candidates == 0
    with pytest.raises(ValueError):
        Tuning.imported({"a": "nothing"})


@pytest.mark.parametrize(
    ("pointer", "aligned"), [(4, 4), (24, 8), (512, 256), (768, 256), (260, 4)]
)
def test_alignment_is_the_largest_power_of_two_that_divides(pointer: int, aligned: int) -> None:
    assert alignment_of(pointer) == aligned
