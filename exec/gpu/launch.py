"""How elements are spread over the blocks and threads of a kernel."""

from exec.device.array import DeviceArray
from exec.device.protocol import Stream

BLOCK = 256
"""The threads of a usual block."""

TILE = 32
"""The side of a tile that goes through shared memory, turned by ``TILE_BLOCK`` threads."""

TILE_BLOCK = (TILE, 8)

MAX_GRID_Y = 1024
"""More blocks along y keep no GPU busier: kernels loop over the rest."""

_WAVES = 32


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def grid_over(stream: Stream, threads: int) -> tuple[int]:
    """Return the blocks for ``threads``, or fewer blocks that keep the device busy and loop."""
    return (min(ceil_div(threads, BLOCK), _WAVES * stream.device.num_multiprocessors),)


def row_block(columns: int) -> tuple[int]:
    """Return the threads, a power of two, of a block that goes along a row of ``columns``."""
    return (min(BLOCK, max(TILE, 1 << max(0, columns - 1).bit_length())),)


def fours(*arrays: DeviceArray) -> int:
    """Return how many groups of four elements can be read at once: none if an array is askew."""
    if any(array.pointer % 16 for array in arrays):
        return 0
    return arrays[0].size // 4


def fours_grid(stream: Stream, *arrays: DeviceArray) -> tuple[int]:
    """Return the blocks of a kernel that takes ``fours`` first and the rest one by one."""
    groups = fours(*arrays)
    return grid_over(stream, max(groups, arrays[0].size - 4 * groups))


def row_fours(columns: int, *arrays: DeviceArray) -> int:
    """Return how many groups of four elements of each row can be read at once: all, or none."""
    return columns // 4 if columns % 4 == 0 and fours(*arrays) else 0
