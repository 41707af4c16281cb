"""Images from one order to the other."""

from exec.device.protocol import Call, Stream
from exec.gpu.images import Images, Order

_TILE = 32
_MOST_ROWS = 65535  # of a grid


def reorder(stream: Stream, source: Images, target: Images, *, adds: bool = False) -> Call:
    """Return a call that sets ``target`` to ``source`` in the other order, or ``adds`` it."""
    assert source.order is not target.order
    pixels, channels, samples = source.pixels, source.channels, source.samples
    last = (pixels, samples, channels, channels, pixels * channels)
    first = (pixels, channels, samples, samples, pixels * samples)
    matrices, rows, columns, by_matrix, by_row = (
        last if source.order is Order.CHANNELS_LAST else first
    )
    *_, to_matrix, to_row = first if source.order is Order.CHANNELS_LAST else last
    grid = -(-columns // _TILE), min(matrices * -(-rows // _TILE), _MOST_ROWS)
    return stream.bind_kernel(
        "reorder", source.array.dtype, grid, (_TILE, 8), source.array, target.array, matrices, rows,
        columns, by_matrix, by_row, to_matrix, to_row, int(adds),
    )  # fmt: skip
