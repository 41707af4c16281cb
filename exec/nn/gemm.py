"""Matrix products: ``c = a b`` of whole matrices, and ``c = alpha a b + beta c`` of strided views.

NumPy's product cannot add to what is there, and SciPy's wrappers copy parts of a matrix. SciPy
publishes the addresses of its BLAS functions for Cython; ctypes calls them in about a microsecond
and lets other threads run meanwhile. For whole matrices its wrappers take a third of that.
"""

import ctypes
from collections.abc import Callable
from functools import cache, partial

from scipy.linalg import cython_blas
from scipy.linalg.blas import dgemm, sgemm

from exec.network.scratch import SMALL_PRODUCT
from exec.nn.backend import Array, Call

Arguments = tuple[int, ...]

_NAMES = {"float32": "sgemm", "float64": "dgemm"}
_SCALARS: dict[str, type[ctypes.c_float] | type[ctypes.c_double]] = {
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}
_WRAPPED = {"float32": sgemm, "float64": dgemm}
_PLAIN, _TRANSPOSED = ctypes.c_char(b"N"), ctypes.c_char(b"T")


def product(a: Array, b: Array, c: Array) -> Call:
    """Return a call that does ``c = a b``; the arrays' places are fixed.

    NumPy and SciPy bring a BLAS each. SciPy's is called where that was measured to be faster: for
    small products, by 3 to 15 %, and if ``b`` is transposed for somewhat larger ones too, by up to
    15 %. Else NumPy's is, by as much, and it lets other threads run meanwhile.
    """
    most = SMALL_PRODUCT if b.flags.c_contiguous else 4 * SMALL_PRODUCT
    is_small = a.shape[0] * b.shape[0] * b.shape[1] <= most
    factors = [_column_major(b), _column_major(a)]
    is_whole = c.flags.c_contiguous and all(x.flags.f_contiguous for x, _ in factors)
    is_alike = a.dtype == b.dtype == c.dtype
    if c.size and b.size and is_small and is_whole and is_alike:
        (second, turns_second), (first, turns_first) = factors
        multiply = _WRAPPED[c.dtype.name]
        return partial(multiply, 1.0, second, first, 0.0, c.T, turns_second, turns_first, 1)
    return partial(a.dot, b, c)


def _column_major(x: Array) -> tuple[Array, bool]:
    """Return the transposed ``x`` for a BLAS that is column-major, and whether it must transpose it."""
    return (x.T, False) if x.flags.c_contiguous else (x, True)


def gemm(alpha: float, a: Array, b: Array, beta: float, c: Array) -> Call:
    """Return a call that does ``c = alpha a b + beta c`` in place; the arrays' places are fixed."""
    if not c.size:
        return lambda: None
    multiply, arguments = multiplier(c.dtype.name), gemm_arguments(alpha, a, b, beta, c)
    arrays = (a, b, c)

    def call(_alive: tuple[Array, ...] = arrays) -> None:
        multiply(*arguments)

    return call


@cache
def multiplier(dtype: str) -> Callable[..., None]:
    """Return the function that takes ``gemm_arguments`` of arrays of type ``dtype``."""
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = cython_blas.__pyx_capi__[_NAMES[dtype]]
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)
    return function(pointer(capsule, name(capsule)))


def gemm_arguments(alpha: float, a: Array, b: Array, beta: float, c: Array) -> Arguments:
    """Return the addresses to call ``multiplier`` with; the caller keeps the arrays alive.

    BLAS is column-major: it computes the transposed product ``b.T a.T`` into ``c.T``.

    Raises:
        ValueError: shapes or types do not fit, or an array is no matrix with a leading dimension.
    """
    (m, k), n = a.shape, b.shape[1]
    if b.shape[0] != k or c.shape != (m, n) or not a.dtype == b.dtype == c.dtype:
        raise ValueError(f"a product must fit, got {a.shape} {a.dtype} by {b.shape} {b.dtype} into {c.shape} {c.dtype}")  # fmt: skip
    (how_a, lda), (how_b, ldb), (how_c, ldc) = (_layout(x) for x in (a, b, c))
    if how_c is _TRANSPOSED:
        raise ValueError(f"a product's rows must be contiguous, got strides {c.strides}")
    dtype = c.dtype.name
    return (
        ctypes.addressof(how_b), ctypes.addressof(how_a), _integer(n), _integer(m), _integer(k),
        _scalar(dtype, alpha), b.ctypes.data, _integer(ldb), a.ctypes.data, _integer(lda),
        _scalar(dtype, beta), c.ctypes.data, _integer(ldc),
    )  # fmt: skip


def moved(arguments: Arguments, a: int, b: int, c: int) -> Arguments:
    """Return ``arguments`` for like matrices that lie so many bytes further on."""
    *start, at_b, ldb, at_a, lda, beta, at_c, ldc = arguments
    return (*start, at_b + b, ldb, at_a + a, lda, beta, at_c + c, ldc)


def _layout(x: Array) -> tuple[ctypes.c_char, int]:
    """Return whether ``x`` is transposed, and the distance between its rows (or columns)."""
    (rows, columns), size = x.shape, x.itemsize
    if not x.size:
        return _PLAIN, max(1, columns)
    for how, inner, outer, length in ((_PLAIN, 1, 0, columns), (_TRANSPOSED, 0, 1, rows)):
        if x.shape[inner] <= 1 or x.strides[inner] == size:
            if x.shape[outer] <= 1:
                return how, max(1, length)
            if not x.strides[outer] % size and x.strides[outer] >= size * max(1, length):
                return how, x.strides[outer] // size
    raise ValueError(f"a matrix must have contiguous rows or columns, got strides {x.strides}")


@cache
def _kept_integer(value: int) -> ctypes.c_int64:
    """Return ``value`` for BLAS, which lives as long as the program.

    Least significant byte first, it is the same number for a BLAS that reads 32 or 64 bits.
    """
    return ctypes.c_int64(value)


@cache
def _kept_scalar(dtype: str, value: float) -> ctypes.c_float | ctypes.c_double:
    """Return ``value`` in the arrays' type, which lives as long as the program."""
    return _SCALARS[dtype](value)


def _integer(value: int) -> int:
    """Return the address of ``value``."""
    return ctypes.addressof(_kept_integer(value))


def _scalar(dtype: str, value: float) -> int:
    """Return the address of ``value`` in the arrays' type."""
    return ctypes.addressof(_kept_scalar(dtype, value))
