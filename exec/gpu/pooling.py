"""Maximum and average pooling of images in either order; those of one pass are in the same.

Backward, each element gathers its gradient from the windows that hold it, in a fixed order.
"""

from exec.device.protocol import Call, Stream
from exec.gpu.grids import plane, planes
from exec.gpu.images import Images
from exec.network.modules import Pair


def max_forward(
    stream: Stream, a: Images, output: Images, kernel: Pair, stride: Pair, padding: Pair
) -> Call:
    """Return a call that sets ``output`` to the maximum of every window; padding never is."""
    return _forward(stream, "max_pool", a, output, kernel, stride, padding)


def max_backward(
    stream: Stream, a: Images, gb: Images, grad_input: Images, kernel: Pair, stride: Pair, padding: Pair, *,
    adds: bool,
) -> Call:  # fmt: skip
    """Return a call that gives ``gb`` to the first maximum of each window, row by row of it.

    It sets ``grad_input``, or ``adds`` to it.
    """
    outer, height, width, inner = planes(a)
    return stream.bind_kernel(
        "max_pool_backward", a.array.dtype, *plane(outer * height, width * inner),
        a.array, gb.array, grad_input.array, outer, height, width, inner, gb.height, gb.width,
        *kernel, *stride, *padding, int(adds),
    )  # fmt: skip


def average_forward(
    stream: Stream, a: Images, output: Images, kernel: Pair, stride: Pair, padding: Pair
) -> Call:
    """Return a call that sets ``output`` to the mean of every window; padding counts as zeros."""
    return _forward(stream, "average_pool", a, output, kernel, stride, padding)


def average_backward(
    stream: Stream, gb: Images, grad_input: Images, kernel: Pair, stride: Pair, padding: Pair, *, adds: bool
) -> Call:  # fmt: skip
    """Return a call that shares ``gb`` among each window: sets ``grad_input``, or ``adds`` to it."""
    outer, height, width, inner = planes(grad_input)
    return stream.bind_kernel(
        "average_pool_backward", gb.array.dtype, *plane(outer * height, width * inner),
        gb.array, grad_input.array, outer, height, width, inner, gb.height, gb.width,
        *kernel, *stride, *padding, int(adds),
    )  # fmt: skip


def _forward(
    stream: Stream, name: str, a: Images, output: Images, kernel: Pair, stride: Pair, padding: Pair
) -> Call:
    outer, height, width, inner = planes(a)
    return stream.bind_kernel(
        name, a.array.dtype, *plane(outer * output.height, output.width * inner),
        a.array, output.array, outer, height, width, inner, output.height, output.width,
        *kernel, *stride, *padding,
    )  # fmt: skip
