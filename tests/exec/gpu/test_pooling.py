"""Pooling on a device against the CPU's, in both orders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu import pooling
from exec.gpu.images import Order
from exec.network.scratch import average_pooling_scratch, max_pooling_scratch, output_length
from exec.nn.pooling import AvgPool, MaxPool
from tests.exec.gpu.device_images import Host, images_of, numbers_of
from tests.exec.nn.images import Pair, normal, windows

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
SIDES = st.integers(1, 4)
ROUNDING = 1e-13  # sums of fewer than 100 numbers below 10


def shape_of(a: Host, kernel: Pair, stride: Pair, padding: Pair) -> tuple[int, ...]:
    """Return the shape of the output."""
    height, width = map(output_length, a.shape[1:3], kernel, stride, padding)
    return a.shape[0], height, width, a.shape[3]


def check(device: Device, order: Order, a: Host, gb: Host, window: tuple[Pair, Pair, Pair], *, is_max: bool, adds: bool) -> None:  # fmt: skip
    """Compare both passes with the CPU's; the gradient starts at 0.5."""
    scratch = max_pooling_scratch if is_max else average_pooling_scratch
    work = np.empty(scratch(a.shape[3], *a.shape[:3], *window))
    grad_input = np.full(a.shape, 0.5)
    module = (MaxPool if is_max else AvgPool)(np.empty(gb.shape), *window, work, grad_input, adds)
    module.forward(a)
    module.backward(gb)

    stream = device.stream()
    inputs, gradient = images_of(device, a, order), images_of(device, gb, order)
    output = images_of(device, np.full(gb.shape, np.nan), order)
    place = images_of(device, np.full(a.shape, 0.5 if adds else np.nan), order)
    if is_max:
        pooling.max_forward(stream, inputs, output, *window)()
        pooling.max_backward(stream, inputs, gradient, place, *window, adds=adds)()
    else:
        pooling.average_forward(stream, inputs, output, *window)()
        pooling.average_backward(stream, gradient, place, *window, adds=adds)()
    np.testing.assert_allclose(numbers_of(device, output), module.output, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(numbers_of(device, place), grad_input, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("is_max", [True, False])
@SETTINGS
@given(windows(), SIDES, st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_passes_equal_the_cpu_s(
    device: Device, order: Order, is_max: bool, window: tuple[Pair, Pair, Pair, Pair],
    channels: int, samples: int, adds: bool, has_ties: bool, seed: int,
) -> None:  # fmt: skip
    size, *rest = window
    a = normal(seed, channels, *size, samples)
    if has_ties:  # a few values only, as behind a rectifier
        a = np.maximum(np.round(a), 0.0)
    gb = normal(seed + 1, *shape_of(a, *rest))
    check(device, order, a, gb, tuple(rest), is_max=is_max, adds=adds)


@pytest.mark.parametrize("order", Order)
def test_the_first_of_equal_maxima_gets_the_gradient(device: Device, order: Order) -> None:
    stream = device.stream()
    a, place = (images_of(device, np.ones((1, 3, 3, 1)), order) for _ in range(2))
    gb = images_of(device, np.array([[1.0, 2.0], [4.0, 8.0]]).reshape(1, 2, 2, 1), order)
    pooling.max_backward(stream, a, gb, place, (2, 2), (1, 1), (0, 0), adds=False)()
    np.testing.assert_array_equal(
        numbers_of(device, place)[0, :, :, 0], [[1, 2, 0], [4, 8, 0], [0, 0, 0]]
    )


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("is_max", [True, False])
def test_a_window_of_the_whole_image(device: Device, order: Order, is_max: bool) -> None:
    a = normal(0, 5, 6, 7, 9)
    gb = normal(1, 5, 1, 1, 9)
    window = (6, 7), (1, 1), (0, 0)
    check(device, order, a, gb, window, is_max=is_max, adds=False)
