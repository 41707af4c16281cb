"""Our own matrix product, for shapes whose cost is the launch and not the arithmetic."""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.launch import BLOCK, ceil_div

_SMALL, _LARGE = 16, 64


def bind_own_product(
    stream: Stream, a: DeviceArray, b: DeviceArray, c: DeviceArray, *, alpha: float = 1.0,
    beta: float = 0.0, leading: tuple[int, int, int] | None = None,
) -> Call:  # fmt: skip
    """Return a call that enqueues ``c = alpha a b + beta c``, as ``Stream.bind_product`` does.

    Every element is summed in one order, whatever the shape, and never in TF32.

    Raises:
        ValueError: the shapes do not fit together, or ``c`` is transposed.
    """
    m, k = a.shape
    n = b.shape[1]
    if b.shape[0] != k or c.shape != (m, n):
        raise ValueError(f"shapes must be those of a product, got {a.shape}, {b.shape}, {c.shape}")
    if c.is_transposed:
        raise ValueError("c must not be transposed")
    distances = leading or (None, None, None)
    (a_row, a_column), (b_row, b_column), (c_row, _) = (
        _strides(array, distance) for array, distance in zip((a, b, c), distances, strict=True)
    )
    side = _side(stream, m, n)
    return stream.bind_kernel(
        f"product_{side}", c.dtype, (_tiles(m, n, side),), (BLOCK,),
        a, b, c, m, n, k, a_row, a_column, b_row, b_column, c_row, float(alpha), float(beta),
    )  # fmt: skip


def _strides(array: DeviceArray, distance: int | None) -> tuple[int, int]:
    """Return how many elements are between the rows, and between the columns."""
    if array.is_transposed:
        return 1, array.shape[0] if distance is None else distance
    return array.shape[1] if distance is None else distance, 1


def _side(stream: Stream, m: int, n: int) -> int:
    """Return the side of the tiles: large where even so every multiprocessor has one."""
    return _LARGE if _tiles(m, n, _LARGE) >= stream.device.num_multiprocessors else _SMALL


def _tiles(m: int, n: int, side: int) -> int:
    return ceil_div(m, side) * ceil_div(n, side)
