"""Memory of the emulated device: what is made holds nothing that could be used by accident."""

import ctypes
import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exec.device.array import DeviceArray

ALIGNMENT = 256
"""The bytes by which CUDA aligns what it allocates."""

_SPOILT = b"\xff" * ALIGNMENT
_PINNED: WeakValueDictionary[int, NDArray[Any]] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Allocation:
    """Memory whose ``margins``, before and behind it, nobody may write to."""

    memory: NDArray[Any]
    margins: tuple[int, int]

    def is_intact(self) -> bool:
        """Say whether the margins are as they were."""
        return all(ctypes.string_at(start, ALIGNMENT) == _SPOILT for start in self.margins)


def allocate(size: int, dtype: DTypeLike) -> DeviceArray:
    """Return ``size`` elements whose bytes are all 0xFF: no numbers, or -1."""
    kind = np.dtype(dtype)
    nbytes = size * kind.itemsize
    memory = np.full(nbytes + 3 * ALIGNMENT, 0xFF, np.uint8)
    pointer = (memory.ctypes.data // ALIGNMENT + 2) * ALIGNMENT
    allocation = Allocation(memory, (pointer - ALIGNMENT, pointer + nbytes))
    return DeviceArray(allocation, pointer, (size,), kind)


def wrap(host: NDArray[Any]) -> DeviceArray:
    """Return the host's memory as an array."""
    if not host.flags.c_contiguous:
        raise ValueError("host must be contiguous")
    return DeviceArray(host, host.ctypes.data, host.shape, host.dtype)


def allocate_pinned(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return host memory that ``is_pinned`` knows."""
    kind = np.dtype(dtype)
    owner = np.full(size * kind.itemsize, 0xFF, np.uint8)
    _PINNED[id(owner)] = owner
    return owner.view(kind)


def is_pinned(host: NDArray[Any]) -> bool:
    """Say whether ``host`` is pinned memory, or a part of it."""
    owner = host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return _PINNED.get(id(owner)) is owner


def view(array: DeviceArray, leading: int | None = None) -> NDArray[Any]:
    """Return the host's view of ``array``; it does not keep the memory alive.

    ``leading`` is the distance in elements between the rows (transposed: columns) of a matrix.
    """
    if not array.is_transposed and leading is None:
        return view_of(array.pointer, array.shape, array.dtype)
    rows, columns = array.shape[::-1] if array.is_transposed else array.shape
    step = columns if leading is None else leading
    if step < columns:
        raise ValueError(f"leading must be at least {columns}, got {step}")
    last = (rows - 1) * step + columns if rows and columns else 0
    flat = view_of(array.pointer, (last,), array.dtype)
    strides = (step * array.itemsize, array.itemsize)
    matrix = np.lib.stride_tricks.as_strided(flat, (rows, columns), strides)
    return matrix.T if array.is_transposed else matrix


def view_of(pointer: int, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Return the numbers at an address."""
    nbytes = math.prod(shape) * dtype.itemsize
    there = (ctypes.c_ubyte * nbytes).from_address(pointer)
    return np.ndarray(shape, dtype, memoryview(there))
