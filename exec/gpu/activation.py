"""Activations, each one kernel together with what belongs to the bias before it.

Gradients are those of the CPU's modules: a function of the output ``b``, not of the input.
"""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.launch import BLOCK, fours, fours_grid, row_block, row_fours


def relu(
    stream: Stream, a: DeviceArray, output: DeviceArray, bias: DeviceArray | None = None,
    inner: int = 1,
) -> Call:  # fmt: skip
    """Return the call of ``output = max(a + bias, 0)``; ``output`` may be ``a``.

    The bias of element i, if there is one, is that of channel i / ``inner`` % channels.
    """
    return _forward("relu", stream, a, output, bias, inner)


def sigmoid(
    stream: Stream, a: DeviceArray, output: DeviceArray, bias: DeviceArray | None = None,
    inner: int = 1,
) -> Call:  # fmt: skip
    """Return the call of ``output = 1 / (1 + exp(-a - bias))``; ``output`` may be ``a``."""
    return _forward("sigmoid", stream, a, output, bias, inner)


def relu_backward(
    stream: Stream, b: DeviceArray, gb: DeviceArray, grad_input: DeviceArray, *, adds: bool
) -> Call:
    """Return the call that sets ``grad_input`` to ``gb`` where ``b > 0``, else zero, or adds it.

    ``grad_input`` may be ``gb`` if nothing is added.
    """
    return _backward("relu_backward", stream, b, gb, grad_input, adds=adds)


def sigmoid_backward(
    stream: Stream, b: DeviceArray, gb: DeviceArray, grad_input: DeviceArray, *, adds: bool
) -> Call:
    """Return the call that sets ``grad_input`` to ``gb b (1 - b)``, or adds it."""
    return _backward("sigmoid_backward", stream, b, gb, grad_input, adds=adds)


def relu_backward_bias(
    stream: Stream, b: DeviceArray, gb: DeviceArray, grad_input: DeviceArray,
    grad_bias: DeviceArray, units: int, *, adds: bool, adds_bias: bool,
) -> Call:  # fmt: skip
    """Return the call of ``relu_backward`` that finds the gradient of the bias too.

    The arrays are (units, samples); ``grad_bias`` is set to the sums of the rows of ``gb`` where
    ``b > 0``, or they are added to it.
    """
    return _backward_bias(
        "relu_backward_bias", stream, b, gb, grad_input, grad_bias, units,
        adds=adds, adds_bias=adds_bias,
    )  # fmt: skip


def sigmoid_backward_bias(
    stream: Stream, b: DeviceArray, gb: DeviceArray, grad_input: DeviceArray,
    grad_bias: DeviceArray, units: int, *, adds: bool, adds_bias: bool,
) -> Call:  # fmt: skip
    """Return the call of ``sigmoid_backward`` that finds the gradient of the bias too."""
    return _backward_bias(
        "sigmoid_backward_bias", stream, b, gb, grad_input, grad_bias, units,
        adds=adds, adds_bias=adds_bias,
    )  # fmt: skip


def _forward(
    name: str, stream: Stream, a: DeviceArray, output: DeviceArray, bias: DeviceArray | None,
    inner: int,
) -> Call:  # fmt: skip
    channels = 1 if bias is None else len(bias)
    return stream.bind_kernel(
        name, a.dtype, fours_grid(stream, a, output), (BLOCK,),
        a, output, bias, a.size, fours(a, output), inner, channels,
    )  # fmt: skip


def _backward(
    name: str, stream: Stream, b: DeviceArray, gb: DeviceArray, grad_input: DeviceArray, *,
    adds: bool,
) -> Call:  # fmt: skip
    arrays = b, gb, grad_input
    return stream.bind_kernel(
        name, b.dtype, fours_grid(stream, *arrays), (BLOCK,),
        *arrays, b.size, fours(*arrays), int(adds),
    )  # fmt: skip


def _backward_bias(
    name: str, stream: Stream, b: DeviceArray, gb: DeviceArray, grad_input: DeviceArray,
    grad_bias: DeviceArray, units: int, *, adds: bool, adds_bias: bool,
) -> Call:  # fmt: skip
    samples, arrays = b.size // units, (b, gb, grad_input)
    return stream.bind_kernel(
        name, b.dtype, (units,), row_block(samples),
        *arrays, grad_bias, samples, row_fours(samples, *arrays), int(adds), int(adds_bias),
    )  # fmt: skip
