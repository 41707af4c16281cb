"""Two-dimensional convolution (cross-correlation): by the device's library, or by columns.

``b[f] = sum over c, kh, kw of weight[f, kh, kw, c] a[c]``, shifted. Weights and their gradients are
(filters, kernel height, kernel width, channels). The images of one pass are in the same order.
``work`` has at least ``gpu_convolution_scratch`` elements.
"""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.calls import in_turn
from exec.gpu.column_convolution import ColumnConvolution
from exec.gpu.grids import arrivals, channel_sums, check_work, parts, strides
from exec.gpu.images import Images, Order
from exec.gpu.library_convolution import LibraryConvolution
from exec.network.gpu_scratch import gpu_bias_scratch, has_columns
from exec.network.modules import Pair
from exec.network.scratch import Convolution


def forward(
    stream: Stream, a: Images, weight: DeviceArray, output: Images, stride: Pair, padding: Pair,
    work: DeviceArray,
) -> Call:  # fmt: skip
    """Return a call that sets ``output``, without a bias."""
    of = _shape(a, weight, output, stride, padding)
    if _is_empty(of):
        return _nothing(stream, output.array, adds=False)
    library = _library(stream, of, a.order, work)
    call = library and library.forward(a, weight, output)
    return call or ColumnConvolution(stream, of, a.order, work).forward(a, weight, output)


def backward_weight(
    stream: Stream, a: Images, gb: Images, grad_weight: DeviceArray, stride: Pair, padding: Pair,
    work: DeviceArray, *, adds: bool,
) -> Call:  # fmt: skip
    """Return a call that sets ``grad_weight``, or ``adds`` to it."""
    of = _shape(a, grad_weight, gb, stride, padding)
    if _is_empty(of):
        return _nothing(stream, grad_weight, adds=adds)
    library = _library(stream, of, a.order, work)
    call = library and library.backward_weight(a, gb, grad_weight, adds=adds)
    if call:
        return call
    columns = ColumnConvolution(stream, of, a.order, work)
    return columns.backward_weight(a, gb, grad_weight, adds=adds)


def backward_input(
    stream: Stream, weight: DeviceArray, gb: Images, grad_input: Images, stride: Pair, padding: Pair,
    work: DeviceArray, *, adds: bool,
) -> Call:  # fmt: skip
    """Return a call that sets ``grad_input``, or ``adds`` to it."""
    of = _shape(grad_input, weight, gb, stride, padding)
    if _is_empty(of):
        return _nothing(stream, grad_input.array, adds=adds)
    library = _library(stream, of, gb.order, work)
    call = library and library.backward_input(weight, gb, grad_input, adds=adds)
    if call:
        return call
    columns = ColumnConvolution(stream, of, gb.order, work)
    return columns.backward_input(weight, gb, grad_input, adds=adds)


def backward_bias(
    stream: Stream, gb: Images, grad_bias: DeviceArray, work: DeviceArray, *, adds: bool
) -> Call:
    """Return a call that sets ``grad_bias`` to the sums over each channel, or ``adds`` them."""
    sums, dtype = channel_sums(gb), gb.array.dtype
    check_work(work, gpu_bias_scratch(sums))
    return stream.bind_kernel(
        "channel_sums", dtype, *parts(sums), gb.array, work, grad_bias, arrivals(stream, sums),
        sums.channels, sums.positions, sums.length, *strides(gb), int(adds),
    )  # fmt: skip


def _is_empty(of: Convolution) -> bool:
    """Say whether there is nothing to multiply."""
    return not of.samples * of.channels * of.filters


def _nothing(stream: Stream, array: DeviceArray, *, adds: bool) -> Call:
    """Return the call that sets ``array`` to zeros, or ``adds`` them."""
    return in_turn() if adds or not array.size else stream.bind_fill(array, 0.0)


def _library(
    stream: Stream, of: Convolution, order: Order, work: DeviceArray
) -> LibraryConvolution | None:
    """Return the convolution by the device's library, if it has one and products need columns."""
    library = stream.device.convolutions
    if library is None or not has_columns(of):
        return None
    return LibraryConvolution(stream, library, of, order, work)


def _shape(
    before: Images, weight: DeviceArray, after: Images, stride: Pair, padding: Pair
) -> Convolution:
    """Return the shape of a convolution of ``before`` to ``after``."""
    filters, *kernel, channels = weight.shape
    assert before.order is after.order
    assert (before.channels, before.samples) == (channels, after.samples)
    of = Convolution(
        before.samples, channels, before.height, before.width, filters, (kernel[0], kernel[1]),
        stride, padding,
    )  # fmt: skip
    assert (filters, of.output_height, of.output_width) == (
        after.channels,
        after.height,
        after.width,
    )
    return of
