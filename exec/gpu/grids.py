"""Grids of blocks of threads for the kernels that work on images."""

import numpy as np

from exec.device.array import DeviceArray
from exec.device.protocol import Stream, zeros
from exec.gpu.images import Images, Order
from exec.network.gpu_scratch import ChannelSums

Grid = tuple[int, int]
Launch = tuple[Grid, Grid]

_THREADS = 256
_WARP = 32
_MOST_ROWS = 65535  # of a grid
_LANE_POSITIONS = 4  # of a thread that only reads and writes


def plane(lines: int, line: int) -> Launch:
    """Return the grid and the block for ``lines`` of ``line`` elements, along y and x."""
    width = min(_THREADS, -(-max(line, 1) // _WARP) * _WARP)
    height = _THREADS // width
    return (-(-line // width), min(-(-lines // height), _MOST_ROWS)), (width, height)


def planes(images: Images) -> tuple[int, int, int, int]:
    """Return ``images`` as (outer, height, width, inner): what is behind and before the pixels."""
    outer, inner = images.channels, images.samples
    if images.order is Order.CHANNELS_LAST:
        outer, inner = inner, outer
    return outer, images.height, images.width, inner


def channel_sums(images: Images) -> ChannelSums:
    """Return how blocks share sums over the channels of ``images``."""
    positions = images.pixels * images.samples
    return ChannelSums(images.channels, positions, images.order is Order.CHANNELS_LAST)


def strides(images: Images) -> tuple[int, int]:
    """Return the distances between the channels, and between the elements of one."""
    if images.order is Order.CHANNELS_LAST:
        return 1, images.channels
    return images.pixels * images.samples, 1


def parts(sums: ChannelSums) -> Launch:
    """Return the grid and the block for sums over the channels; one block where there is nothing."""
    return (sums.tiles, max(1, sums.parts)), (sums.width, sums.lanes)


def arrivals(stream: Stream, sums: ChannelSums) -> DeviceArray:
    """Return where the blocks of such a grid count who has come: zeros between two launches."""
    return zeros(stream.device, max(1, sums.tiles), np.int32)


def elements(sums: ChannelSums) -> Launch:
    """Return the grid and the block for all elements, channel by channel."""
    rows = -(-sums.positions // (sums.lanes * _LANE_POSITIONS))
    return (sums.tiles, min(rows, _MOST_ROWS)), (sums.width, sums.lanes)


def check_work(work: DeviceArray, needed: int) -> None:
    """Assert that ``work`` has room for ``needed`` elements."""
    assert work.size >= needed, f"work must have {needed} elements, got {work.size}"
