"""A product of device arrays as BLAS knows it: of column-major matrices, with leading dimensions.

A row-major matrix is, read by columns, its transpose. So ``c = a b`` of matrices with rows is asked
for as ``c' = b' a'``: the factors change places, and no number moves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from exec.device.array import DeviceArray


@dataclass(frozen=True, slots=True)
class Factor:
    """A column-major factor of ``rows`` x ``columns`` as it lies in memory."""

    pointer: int
    rows: int
    columns: int
    leading: int
    is_transposed: bool


@dataclass(frozen=True, slots=True)
class Gemm:
    """The column-major ``c (m, n) = left (m, k) right (k, n)``; left is ``b``, right is ``a``."""

    m: int
    n: int
    k: int
    left: Factor
    right: Factor
    c: int
    c_leading: int
    dtype: np.dtype[Any]


def gemm_of(
    a: DeviceArray, b: DeviceArray, c: DeviceArray, leading: tuple[int, int, int] | None
) -> Gemm:
    """Return the column-major product that sets ``c``, which has rows, to ``a b``.

    Raises:
        ValueError: they do not fit, ``c`` has columns, or the type is neither float32 nor float64.
    """
    if (
        a.ndim != 2
        or b.ndim != 2
        or c.shape != (a.shape[0], b.shape[1])
        or a.shape[1] != b.shape[0]
    ):
        raise ValueError(
            f"a, b and c must be matrices that fit, got {a.shape}, {b.shape}, {c.shape}"
        )
    if c.is_transposed:
        raise ValueError("c must not be transposed")
    if not a.dtype == b.dtype == c.dtype:
        raise ValueError(f"a, b and c must have one type, got {a.dtype}, {b.dtype}, {c.dtype}")
    if c.dtype not in (np.float32, np.float64):
        raise ValueError(f"a, b and c must be float32 or float64, got {c.dtype}")
    of_a, of_b, of_c = leading or (None, None, None)
    (rows, columns), depth = c.shape, a.shape[1]
    return Gemm(
        columns, rows, depth, _factor("b", b, of_b), _factor("a", a, of_a),
        c.pointer, _leading("c", columns, of_c), c.dtype,
    )  # fmt: skip


def _factor(name: str, matrix: DeviceArray, leading: int | None) -> Factor:
    outer, inner = matrix.shape[::-1] if matrix.is_transposed else matrix.shape
    return Factor(
        matrix.pointer, inner, outer, _leading(name, inner, leading), matrix.is_transposed
    )


def _leading(name: str, least: int, given: int | None) -> int:
    # BLAS wants a leading dimension of at least 1, of empty matrices too.
    if given is not None and given < least:
        raise ValueError(f"leading of {name} must be at least {least}, got {given}")
    return max(1, least if given is None else given)
