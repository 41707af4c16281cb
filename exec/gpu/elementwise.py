"""One number at a time: what is added, and what is multiplied."""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.launch import BLOCK, grid_over


def accumulate(stream: Stream, into: DeviceArray, source: DeviceArray) -> Call:
    """Return a call that adds ``source`` to ``into``, of the same size."""
    return stream.bind_kernel(
        "accumulate", into.dtype, grid_over(stream, into.size), (BLOCK,), into, source, into.size
    )


def scale(stream: Stream, array: DeviceArray, factor: float) -> Call:
    """Return a call that multiplies ``array`` by ``factor``."""
    return stream.bind_kernel(
        "scale", array.dtype, grid_over(stream, array.size), (BLOCK,),
        array, array.size, float(factor),
    )  # fmt: skip
