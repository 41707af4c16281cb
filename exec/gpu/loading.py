"""Microbatches gathered from the samples that are on the device.

Sample i of a microbatch is row ``order[position[0] + start + i]``.
"""

import math
from typing import Literal

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.images import Order
from exec.gpu.launch import BLOCK, MAX_GRID_Y, TILE, TILE_BLOCK, ceil_div, row_block


def load_images(
    stream: Stream, images: DeviceArray, order: DeviceArray, position: DeviceArray, start: int,
    n: int, target: DeviceArray, *, shape: tuple[int, int, int], into: Literal["rows"] | Order,
) -> Call:  # fmt: skip
    """Return the call that gathers ``n`` samples of ``images`` (num, features) into ``target``.

    ``shape`` is (channels, height, width), the order of a sample's features. ``target`` gets rows
    (n, features), or images in an ``Order``; with the samples last that is (features, n) too.
    """
    features = math.prod(shape)
    given = images, order, position, start, n
    if into == Order.SAMPLES_LAST:
        grid = ceil_div(features, TILE), min(ceil_div(n, TILE), MAX_GRID_Y)
        return stream.bind_kernel(
            "gather_columns", images.dtype, grid, TILE_BLOCK, *given, features, target
        )
    channels = shape[0] if into == Order.CHANNELS_LAST else 1
    grid = ceil_div(features, BLOCK), min(n, MAX_GRID_Y)
    return stream.bind_kernel(
        "gather_rows", images.dtype, grid, row_block(features),
        *given, channels, features // channels, target,
    )  # fmt: skip


def advance(stream: Stream, position: DeviceArray, by: int) -> Call:
    """Return the call that moves ``position`` on by ``by`` samples."""
    # It has no real numbers: either type will do.
    return stream.bind_kernel("advance", "float32", (1,), (1,), position, by)
