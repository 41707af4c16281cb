"""The array module, chosen in this one place: NumPy and BLAS today; CuPy offers the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy as xp  # noqa: ICN001  # the name by which the network knows its array module
from numpy.typing import NDArray
from scipy.linalg.blas import daxpy, ddot, dger, idamax, isamax, saxpy, sdot, sger

Array = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]
Call = Callable[[], object]

DTYPES: dict[str, type[np.floating[Any]]] = {"float32": xp.float32, "float64": xp.float64}

__all__ = ["DTYPES", "Array", "Call", "Indices", "adder", "dot_of", "outer_adder", "peak_of", "xp"]

_AXPY = {"float32": saxpy, "float64": daxpy}
_GER = {"float32": sger, "float64": dger}
_DOT = {"float32": sdot, "float64": ddot}
_AMAX = {"float32": isamax, "float64": idamax}


def adder(alpha: float, x: Array, y: Array) -> Call:
    """Return a call that does ``y += alpha x`` in place, in one pass."""
    _check_for_blas(y, x)
    axpy, size = _AXPY[y.dtype.name], y.size
    x, y = x.reshape(-1), y.reshape(-1)

    def add() -> None:
        axpy(x, y, size, alpha)

    return add


def outer_adder(alpha: float, column: Array, row: Array, matrix: Array) -> Call:
    """Return a call that does ``matrix += alpha * column * row``, an outer product, in place.

    ``column`` has an element for every row of the C-ordered ``matrix``, ``row`` one for every
    column. NumPy's broadcasting would loop over the rows, in Python's time.
    """
    _check_for_blas(matrix, row, column)
    if not matrix.size:
        return lambda: None
    ger, transposed = _GER[matrix.dtype.name], matrix.T

    def add() -> None:
        ger(alpha, row, column, 1, 1, transposed, 1, 1, 1)  # increments, then what it overwrites

    return add


def dot_of(x: Array, y: Array) -> Callable[[], float]:
    """Return a call that returns the sum of the products of two rows, which must not be empty."""
    _check_for_blas(x, y)
    dot, size = _DOT[x.dtype.name], x.size

    def multiply() -> float:
        product: float = dot(x, y, size)
        return product

    return multiply


def peak_of(x: Array) -> Callable[[], float]:
    """Return a call that returns the size of the largest number in a row, which must not be empty.

    Beside numbers that are none it may be any of them: sums of all show these.
    """
    _check_for_blas(x)
    place_of, item = _AMAX[x.dtype.name], x.item

    def look() -> float:
        return abs(item(place_of(x)))

    return look


def _check_for_blas(changed: Array, *others: Array) -> None:
    """Raise unless BLAS can work in place: it would silently change a copy otherwise."""
    for array in (changed, *others):
        if not array.flags.c_contiguous or array.dtype != changed.dtype:
            raise ValueError(
                f"arrays must be contiguous and of type {changed.dtype}, got {array.dtype} with strides {array.strides}"
            )
