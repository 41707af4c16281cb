"""Convolution on a device against the CPU's, in both orders."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu import convolution
from exec.gpu.images import Order
from exec.network import gpu_scratch
from exec.network.gpu_scratch import gpu_convolution_scratch
from exec.network.scratch import Convolution, convolution_scratch
from exec.nn.convolution import Conv2d
from tests.exec.gpu.column_library import ColumnLibrary
from tests.exec.gpu.device_images import Host, images_of, numbers_of, room
from tests.exec.nn.images import Pair, normal, windows

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
SEEDS, SIDES = st.integers(0, 2**32), st.integers(1, 5)

# Sums of fewer than 10^4 products of numbers below 10, in another order.
ROUNDING = 1e-10


def on_cpu(
    a: Host, gb_of: int, weight: Host, stride: Pair, padding: Pair, *, adds: bool
) -> tuple[Host, ...]:
    """Return the output, gb, and the gradients of weight, bias and input, which start at 0.5."""
    channels, height, width, samples = a.shape
    filters, kh, kw, _ = weight.shape
    of = Convolution(samples, channels, height, width, filters, (kh, kw), stride, padding)
    shape = filters, of.output_height, of.output_width, samples
    size = convolution_scratch(samples, channels, height, width, filters, (kh, kw), stride, padding)
    grad_weight, grad_bias, grad_input = (np.full(s, 0.5) for s in (weight.shape, filters, a.shape))
    module = Conv2d(
        weight, np.zeros(filters), grad_weight, grad_bias, np.empty(shape), np.empty(size),
        stride, padding, grad_input, adds=adds, adds_input=adds,
    )  # fmt: skip
    gb = normal(gb_of, *shape)
    output = module.forward(a).copy()
    module.backward(gb)
    return output, gb, grad_weight, grad_bias, grad_input


def on_device(
    device: Device, order: Order, a: Host, gb: Host, weight: Host, stride: Pair, padding: Pair, *, adds: bool
) -> tuple[Host, ...]:  # fmt: skip
    """Return the output and the gradients of weight, bias and input, which start at 0.5 or unset."""
    start = 0.5 if adds else np.nan
    filters, kh, kw, channels = weight.shape
    of = Convolution(
        a.shape[3], channels, a.shape[1], a.shape[2], filters, (kh, kw), stride, padding
    )
    stream = device.stream()
    size = gpu_convolution_scratch(of, is_channels_last=order is Order.CHANNELS_LAST)
    work = device.upload(np.full(size, np.nan, a.dtype))
    inputs, gradient = images_of(device, a, order), images_of(device, gb, order)
    output = images_of(device, np.full(gb.shape, np.nan, a.dtype), order)
    grad_input = images_of(device, np.full(a.shape, start, a.dtype), order)
    kernel, grad_weight = device.upload(weight), device.upload(np.full_like(weight, start))
    grad_bias = device.upload(np.full(filters, start, a.dtype))
    geometry = stride, padding, work
    convolution.forward(stream, inputs, kernel, output, *geometry)()
    convolution.backward_weight(stream, inputs, gradient, grad_weight, *geometry, adds=adds)()
    convolution.backward_bias(stream, gradient, grad_bias, work, adds=adds)()
    convolution.backward_input(stream, kernel, gradient, grad_input, *geometry, adds=adds)()
    return (
        numbers_of(device, output), device.read(grad_weight), device.read(grad_bias),
        numbers_of(device, grad_input),
    )  # fmt: skip


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("columns", [1, 300, gpu_scratch.COLUMNS])
@SETTINGS
@given(windows(1), SIDES, SIDES, st.integers(0, 5), st.booleans(), SEEDS)
def test_passes_equal_the_cpu_s_in_any_chunks(
    device: Device, order: Order, columns: int, window: tuple[Pair, Pair, Pair, Pair],
    channels: int, filters: int, samples: int, adds: bool, seed: int,
) -> None:  # fmt: skip
    size, kernel, stride, padding = window
    a, weight = normal(seed, channels, *size, samples), normal(seed + 1, filters, *kernel, channels)
    output, gb, *gradients = on_cpu(a, seed + 2, weight, stride, padding, adds=adds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_scratch, "COLUMNS", columns)
        found = on_device(device, order, a, gb, weight, stride, padding, adds=adds)
    for one, other in zip(found, (output, *gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("order", Order)
@SETTINGS
@given(windows(1), SIDES, SIDES, st.integers(0, 5), st.booleans(), SEEDS)
def test_a_library_and_columns_where_it_has_none_equal_the_cpu_s(
    device: Device, order: Order, window: tuple[Pair, Pair, Pair, Pair],
    channels: int, filters: int, samples: int, adds: bool, seed: int,
) -> None:  # fmt: skip
    size, kernel, stride, padding = window
    a, weight = normal(seed, channels, *size, samples), normal(seed + 1, filters, *kernel, channels)
    output, gb, *gradients = on_cpu(a, seed + 2, weight, stride, padding, adds=adds)
    library = ColumnLibrary(refused=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(device), "convolutions", library)
        found = on_device(device, order, a, gb, weight, stride, padding, adds=adds)
    for one, other in zip(found, (output, *gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING)
    needs_columns = (kernel, stride, padding) != ((1, 1), (1, 1), (0, 0))
    is_taken = samples > 0 and stride[0] != 3 and needs_columns
    passes = ["forward", "backward_weight", "backward_input"]
    assert library.passes == (passes if is_taken else [])


@pytest.mark.parametrize("order", Order)
def test_the_device_s_own_library_equals_columns(device: Device, order: Order) -> None:
    if device.convolutions is None:
        pytest.skip(f"{device.name} has no library of convolutions")
    rng = np.random.default_rng(0)
    for channels, stride in product((1, 3, 16), ((1, 1), (2, 2), (2, 1))):
        of = Convolution(9, channels, 11, 12, 32, (3, 3), stride, (1, 1))
        a, weight, gb = (
            rng.uniform(-1, 1, shape).astype(np.float32)
            for shape in (
                (channels, 11, 12, 9), (32, 3, 3, channels), (32, of.output_height, of.output_width, 9)
            )
        )  # fmt: skip
        found = on_device(device, order, a, gb, weight, stride, (1, 1), adds=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(device), "convolutions", None)
            expected = on_device(device, order, a, gb, weight, stride, (1, 1), adds=False)
        # Each sums k products of numbers of at most 1: k k roundings at worst, and those of factors.
        unit = 2.0**-11 if device.is_tf32 else 2.0**-24
        terms = (9 * channels, gb[0].size, gb[0].size, 9 * 32)
        for one, other, k in zip(found, expected, terms, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2 * k * (k * 2.0**-24 + 2 * unit))


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("channels, filters, samples", [(0, 2, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("adds", [False, True])
def test_of_nothing_the_sums_are_zero(
    device: Device, order: Order, channels: int, filters: int, samples: int, adds: bool
) -> None:
    shapes = (channels, 4, 4, samples), (filters, 2, 2, samples), (filters, 3, 3, channels)
    a, gb, weight = (normal(0, *shape) for shape in shapes)
    output, *gradients = on_device(device, order, a, gb, weight, (1, 1), (0, 0), adds=adds)
    grad_weight, grad_bias, grad_input = gradients
    expected = np.full(filters, 0.5 * adds) + gb.sum((1, 2, 3))
    np.testing.assert_allclose(grad_bias, expected, rtol=0, atol=ROUNDING)
    for found, start in ((output, 0.0), (grad_weight, 0.5 * adds), (grad_input, 0.5 * adds)):
        np.testing.assert_array_equal(found, start)


@pytest.mark.parametrize("order", Order)
def test_the_same_passes_give_the_same_bits(device: Device, order: Order) -> None:
    a, weight = normal(0, 3, 9, 8, 70), normal(1, 40, 3, 3, 3)
    gb = normal(2, 40, 5, 4, 70)
    first, second = (
        on_device(device, order, a, gb, weight, (2, 2), (1, 1), adds=False) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("channels", [1, 3, 33, 70])
def test_bias_gradients_sum_many_positions(device: Device, order: Order, channels: int) -> None:
    gb = normal(3, channels, 25, 20, 30)
    sums = gpu_scratch.ChannelSums(channels, 25 * 20 * 30, order is Order.CHANNELS_LAST)
    assert sums.parts > 1
    work, found = room(device, gpu_scratch.gpu_bias_scratch(sums)), room(device, channels)
    call = convolution.backward_bias(
        device.stream(), images_of(device, gb, order), found, work, adds=False
    )
    for _ in range(2):  # what a launch leaves behind, the next can work with
        call()
        np.testing.assert_allclose(device.read(found), gb.sum((1, 2, 3)), rtol=0, atol=ROUNDING)
        device.write(found, np.full(channels, np.nan))
