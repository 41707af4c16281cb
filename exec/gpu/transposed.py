"""Transposed copies: of matrices, and of images from one order to the other."""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.addition import pass_on
from exec.gpu.images import Images, Order
from exec.gpu.launch import MAX_GRID_Y, TILE, TILE_BLOCK, ceil_div


def copy_transposed(
    stream: Stream, source: DeviceArray, target: DeviceArray, *, adds: bool = False
) -> Call:
    """Return the call that copies ``source`` (m, n) into ``target`` (n, m), or adds it."""
    m, n = source.shape
    return _permute(stream, source, target, (m, n), 1, (n, m), (0, 0), adds=adds)


def permute(
    stream: Stream, source: DeviceArray, target: DeviceArray, shape: tuple[int, int, int], *,
    adds: bool = False,
) -> Call:  # fmt: skip
    """Return the call that copies ``source``, of ``shape`` (a, b, c), into ``target`` (c, b, a)."""
    a, b, c = shape
    # One of three axes of length 1 leaves a matrix, whose tiles are fuller.
    if a == 1 or c == 1:
        m, n = (b, c) if a == 1 else (a, b)
        return _permute(stream, source, target, (m, n), 1, (n, m), (0, 0), adds=adds)
    return _permute(stream, source, target, (a, c), b, (b * c, b * a), (c, a), adds=adds)


def reorder(stream: Stream, images: Images, target: Images, *, adds: bool = False) -> Call:
    """Return the call that copies ``images`` into ``target``, of either order, or adds them."""
    if images.order is target.order:
        return pass_on(stream, images.array, target.array, adds=adds)
    return permute(stream, images.array, target.array, _axes(images), adds=adds)


def flatten(stream: Stream, images: Images, target: DeviceArray, *, adds: bool = False) -> Call:
    """Return the call that copies ``images`` into ``target``, (units, samples), or adds them.

    The units are in the order channel, row, column: those of images with the samples last.
    """
    return reorder(stream, images, _units(images, target), adds=adds)


def unflatten(stream: Stream, source: DeviceArray, images: Images, *, adds: bool = False) -> Call:
    """Return the call that copies ``source``, (units, samples), into ``images``, or adds it."""
    return reorder(stream, _units(images, source), images, adds=adds)


def _units(images: Images, array: DeviceArray) -> Images:
    """Return ``array``, (units, samples), as images like ``images``."""
    return Images(
        array, images.channels, images.height, images.width, images.samples, Order.SAMPLES_LAST
    )


def _axes(images: Images) -> tuple[int, int, int]:
    """Return the lengths of the outer, middle and inner axis, of which the middle are the pixels."""
    if images.order is Order.CHANNELS_LAST:
        return images.samples, images.pixels, images.channels
    return images.channels, images.pixels, images.samples


def _permute(
    stream: Stream, source: DeviceArray, target: DeviceArray, matrix: tuple[int, int], batch: int,
    rows: tuple[int, int], batches: tuple[int, int], *, adds: bool,
) -> Call:  # fmt: skip
    """Return the call that transposes ``batch`` matrices; ``rows`` and ``batches`` are distances."""
    m, n = matrix
    grid = ceil_div(m, TILE) * ceil_div(n, TILE), min(batch, MAX_GRID_Y)
    return stream.bind_kernel(
        "permute", source.dtype, grid, TILE_BLOCK, source, target, m, n, batch, *rows, *batches,
        int(adds),
    )  # fmt: skip
