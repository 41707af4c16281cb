"""The sum of two branches, whose gradient goes to both."""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.elementwise import accumulate
from exec.gpu.launch import BLOCK, fours, fours_grid


def add(stream: Stream, a: DeviceArray, b: DeviceArray, output: DeviceArray) -> Call:
    """Return the call of ``output = a + b``; ``output`` may be one of them."""
    arrays = a, b, output
    return stream.bind_kernel(
        "add", a.dtype, fours_grid(stream, *arrays), (BLOCK,), *arrays, a.size, fours(*arrays)
    )


def pass_on(stream: Stream, gb: DeviceArray, destination: DeviceArray, *, adds: bool) -> Call:
    """Return the call that copies ``gb`` to ``destination``, or adds it."""
    if adds:
        return accumulate(stream, destination, gb)
    return stream.bind_copy(gb, destination)
