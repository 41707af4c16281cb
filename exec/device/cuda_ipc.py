"""Memory of a GPU that the ranks of a node share, from one process to another (CUDA IPC).

A handle stands for a whole allocation of cudaMalloc: a piece of a pool would give away its
neighbours, and its place in the pool would be lost. CUDA itself cuts small allocations from 2 MiB
blocks and shares the block (CUDA programming guide, Interprocess Communication): so shared arrays
are whole blocks. Processes only: a thread of the same process uses the array itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.cuda import CudaDevice

BLOCK_NBYTES = 2 << 20


def shareable(device: CudaDevice, size: int, dtype: DTypeLike) -> DeviceArray:
    """Return ``size`` elements that can be exported.

    Raises:
        DeviceError: there is not enough memory.
    """
    kind = np.dtype(dtype)
    nbytes = -(-max(size * kind.itemsize, 1) // BLOCK_NBYTES) * BLOCK_NBYTES
    block = device.empty(nbytes, np.uint8)
    return DeviceArray(block.memory, block.pointer, (size,), kind)


def export(device: CudaDevice, array: DeviceArray) -> bytes:
    """Return the handle by which another process opens ``array``, which must outlive its use there.

    Raises:
        ValueError: it is not the whole of what ``shareable`` returned.
    """
    if getattr(array.memory, "ptr", None) != array.pointer:
        raise ValueError("array must begin where shareable memory begins, got a part of it")
    return bytes(device.cupy.cuda.runtime.ipcGetMemHandle(array.pointer))


def open_shared(device: CudaDevice, handle: bytes, size: int, dtype: DTypeLike) -> DeviceArray:
    """Return the array of another process, of this node, by its ``handle``."""
    runtime = device.cupy.cuda.runtime
    memory = _Opened(runtime, int(runtime.ipcOpenMemHandle(handle)))
    return DeviceArray(memory, memory.pointer, (size,), np.dtype(dtype))


@dataclass(slots=True)
class _Opened:
    """Another process's memory, for as long as this lives."""

    runtime: Any
    pointer: int

    def __del__(self) -> None:
        self.runtime.ipcCloseMemHandle(self.pointer)
