"""What a stream of the emulated device does: kernels, products, copies, fills.

Each function checks its arguments at once, as its namesake on a GPU does or should, and returns the
work itself: done when the stream comes to it, on what the memory holds then.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exec.device.array import DeviceArray
from exec.device.emulated_kernels import find_kernel
from exec.device.emulated_memory import Allocation, is_pinned, view
from exec.device.protocol import Argument, Host

Work = Callable[[], object]

POINTER_CODES = {"float32": "F", "float64": "D", "int32": "I", "uint8": "B"}


def kernel_work(
    source: Path, name: str, dtype: DTypeLike, grid: Sequence[int], block: Sequence[int],
    arguments: Sequence[Argument], draw_seed: Callable[[], int],
) -> Work:  # fmt: skip
    """Return the run of a kernel, its blocks and threads in the order of a seed (0: ascending)."""
    function, signature = find_kernel(source, name, np.dtype(dtype))
    if len(arguments) != len(signature):
        raise ValueError(f"{name} must get {len(signature)} arguments, got {len(arguments)}")
    values = [
        _value(name, index, code, argument)
        for index, (code, argument) in enumerate(zip(signature, arguments, strict=True))
    ]
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
    blocks, threads = _extent(grid), _extent(block)
    if not 0 < math.prod(block) <= 1024:
        raise ValueError(f"block must have 1 to 1024 threads, got {tuple(block)}")
    allocations = [
        (index, argument.memory)
        for index, argument in enumerate(arguments)
        if isinstance(argument, DeviceArray) and isinstance(argument.memory, Allocation)
    ]
    if math.prod(grid) == 0:
        return lambda: None

    def run() -> tuple[object, ...]:
        wrong = function(blocks, threads, pointers, draw_seed())
        if wrong is not None:
            raise ValueError(f"kernel {name}: {wrong.decode()}")
        for index, allocation in allocations:
            if not allocation.is_intact():
                raise ValueError(f"kernel {name} must not write outside argument {index}")
        return values, arguments  # they live as long as this work

    return run


def product_work(
    a: DeviceArray, b: DeviceArray, c: DeviceArray, alpha: float, beta: float,
    leading: tuple[int, int, int] | None, *, is_tf32: bool,
) -> Work:  # fmt: skip
    """Return ``c = alpha a b + beta c``; what ``c`` held does not matter if ``beta`` is 0."""
    if (
        a.ndim != 2
        or b.ndim != 2
        or (a.shape[0], b.shape[1]) != c.shape
        or a.shape[1] != b.shape[0]
    ):
        raise ValueError(
            f"a, b and c must be matrices that fit, got {a.shape}, {b.shape}, {c.shape}"
        )
    if c.is_transposed:
        raise ValueError("c must not be transposed")
    if not a.dtype == b.dtype == c.dtype:
        raise ValueError(f"a, b and c must have one type, got {a.dtype}, {b.dtype}, {c.dtype}")
    left, right, result = map(view, (a, b, c), leading or (None, None, None))
    rounded = round_to_tf32 if is_tf32 and a.dtype == np.float32 else np.asarray

    def run() -> tuple[DeviceArray, ...]:
        product = np.matmul(rounded(left), rounded(right))
        if alpha != 1:
            product *= alpha
        if beta != 0:
            product += beta * result
        result[...] = product
        return a, b, c  # they live as long as this work

    return run


def copy_work(source: DeviceArray | Host, target: DeviceArray | Host) -> Work:
    """Return the copy of ``source`` to ``target``."""
    for end in (source, target):
        if isinstance(end, np.ndarray) and not (is_pinned(end) and end.flags.c_contiguous):
            raise ValueError("host memory must be pinned and contiguous; make it by Device.pinned")
        if isinstance(end, DeviceArray) and end.is_transposed:
            raise ValueError("array must not be transposed")
    if source.dtype != target.dtype or source.size != target.size:
        raise ValueError(
            f"target must be {source.size} of {source.dtype}, got {target.size} of {target.dtype}"
        )
    origin, goal = _flat(source), _flat(target)

    def run() -> tuple[object, ...]:
        goal[...] = origin
        return source, target  # they live as long as this work

    return run


def fill_work(array: DeviceArray, value: float) -> Work:
    """Return the filling of ``array``."""
    whole = _flat(array)

    def run() -> DeviceArray:
        whole[...] = value
        return array  # it lives as long as this work

    return run


def round_to_tf32(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return float32 rounded to 10 bits of mantissa, ties to even.

    >>> float(round_to_tf32(np.float32([1 + 2**-10 + 2**-11]))[0] - 1) * 2**10
    2.0
    """
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(numbers), rounded.view(np.float32), numbers)


def _extent(lengths: Sequence[int]) -> "ctypes.Array[ctypes.c_uint]":
    if not 1 <= len(lengths) <= 3 or min(lengths) < 0:
        raise ValueError(f"grid and block must be 1 to 3 lengths, got {tuple(lengths)}")
    return (ctypes.c_uint * 3)(*lengths, *[1] * (3 - len(lengths)))


def _value(name: str, index: int, code: str, argument: Argument) -> Any:
    where = f"argument {index} of {name}"
    match argument:
        case DeviceArray():
            if code != POINTER_CODES.get(argument.dtype.name):
                raise ValueError(
                    f"{where} must be of type {code!r}, got an array of {argument.dtype}"
                )
            return ctypes.c_void_p(argument.pointer)
        case None:
            if code not in POINTER_CODES.values():
                raise ValueError(f"{where} must be of type {code!r}, got None")
            return ctypes.c_void_p(None)
        case int():
            if code != "i":
                raise ValueError(
                    f"{where} must be of type {code!r}, got the whole number {argument}"
                )
            if not -(2**31) <= argument < 2**31:
                raise ValueError(f"{where} must fit into 32 bits, got {argument}")
            return ctypes.c_int(argument)
        case float():
            if code not in ("f", "d"):
                raise ValueError(f"{where} must be of type {code!r}, got the number {argument}")
            return (ctypes.c_float if code == "f" else ctypes.c_double)(argument)


def _flat(array: DeviceArray | Host) -> NDArray[Any]:
    return (view(array) if isinstance(array, DeviceArray) else array).reshape(-1)
