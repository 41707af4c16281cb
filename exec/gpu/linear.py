"""Dense layers: their products, and what belongs to the bias.

The product comes without the bias, which the activation or the loss adds in passing.
"""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.calls import in_turn
from exec.gpu.launch import BLOCK, fours, fours_grid, row_block, row_fours


def forward(stream: Stream, weight: DeviceArray, a: DeviceArray, output: DeviceArray) -> Call:
    """Return the call of ``output = weight a``.

    ``weight`` is (units, inputs), ``a`` (inputs, samples) in either order, ``output`` (units,
    samples).
    """
    return _product(stream, weight, a, output, adds=False)


def backward_weight(
    stream: Stream, gb: DeviceArray, a: DeviceArray, grad_weight: DeviceArray, *, adds: bool
) -> Call:
    """Return the call that sets ``grad_weight``, (units, inputs), to ``gb a^T``, or adds it."""
    return _product(stream, gb, a.T, grad_weight, adds=adds)


def backward_input(
    stream: Stream, weight: DeviceArray, gb: DeviceArray, grad_input: DeviceArray, *,
    adds: bool, sample_major: bool = False,
) -> Call:  # fmt: skip
    """Return the call that sets ``grad_input`` to ``weight^T gb``, or adds it.

    It is (inputs, samples), or (samples, inputs) if ``sample_major``.
    """
    factors = (gb.T, weight) if sample_major else (weight.T, gb)
    return _product(stream, *factors, grad_input, adds=adds)


def backward_bias(stream: Stream, gb: DeviceArray, grad_bias: DeviceArray, *, adds: bool) -> Call:
    """Return the call that sets ``grad_bias`` to the sums of the rows of ``gb``, or adds them."""
    units, samples = gb.shape
    return stream.bind_kernel(
        "row_sums", gb.dtype, (units,), row_block(samples),
        gb, grad_bias, samples, row_fours(samples, gb), int(adds),
    )  # fmt: skip


def add_bias(stream: Stream, a: DeviceArray, bias: DeviceArray, inner: int) -> Call:
    """Return the call that adds to element i of ``a`` the bias of channel i / ``inner``."""
    return stream.bind_kernel(
        "add_bias", a.dtype, fours_grid(stream, a), (BLOCK,),
        a, a, bias, a.size, fours(a), inner, len(bias),
    )  # fmt: skip


def _product(stream: Stream, a: DeviceArray, b: DeviceArray, c: DeviceArray, *, adds: bool) -> Call:
    """Return the call of ``c = a b``, or of its addition; there may be nothing to multiply."""
    if a.size and b.size:
        return stream.bind_product(a, b, c, beta=1.0 if adds else 0.0)
    return in_turn() if adds or not c.size else stream.bind_fill(c, 0.0)
