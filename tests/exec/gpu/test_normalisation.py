"""Batch normalisation on a device against the CPU's, whole and with its sums added over two ranks."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.device.array import DeviceArray
from exec.device.protocol import Device
from exec.gpu.images import Order
from exec.gpu.normalisation import BatchNorm2d, normalise
from exec.network.gpu_scratch import ChannelSums, gpu_normalisation_scratch
from exec.network.scratch import normalisation_scratch
from exec.nn import normalisation
from tests.exec.gpu.device_images import Host, images_of, numbers_of, room
from tests.exec.nn.images import normal

SETTINGS = settings(derandomize=True, deadline=None, max_examples=30)
SIDES, SEEDS = st.integers(1, 5), st.integers(0, 2**32)

# Fewer than 1000 roundings of numbers below 1000: inverses of deviations are at most 1 / sqrt(eps).
ROUNDING = 1e-9
PHASES = "forward_sums", "forward", "backward_sums", "backward"


def on_cpu(a: Host, vectors: Host, count: int, *, adds: bool, is_shared: bool) -> normalisation.BatchNorm2d:  # fmt: skip
    """Return a module whose gradients start at 0.5, the running variances at 2."""
    channels, height, width, samples = a.shape
    return normalisation.BatchNorm2d(
        vectors[0], vectors[1], *np.full((2, channels), 0.5), vectors[2].copy(), np.full(channels, 2.0),
        np.empty(a.shape), *np.zeros((2, 2, channels)),
        np.empty(normalisation_scratch(samples, channels, height, width)), count,
        grad_input=np.full(a.shape, 0.5), adds=adds, adds_input=adds, is_shared=is_shared,
    )  # fmt: skip


def on_device(
    device: Device, order: Order, a: Host, gb: Host, vectors: Host, count: int, *, adds: bool, is_shared: bool
) -> BatchNorm2d:  # fmt: skip
    """Return the same on ``device``; what is not added to has no value at first."""
    channels, height, width, samples = a.shape
    start = 0.5 if adds else np.nan
    sums = ChannelSums(channels, height * width * samples, order is Order.CHANNELS_LAST)
    unset = np.full_like(a, np.nan)
    return BatchNorm2d(
        device.stream(), *map(device.upload, vectors[:2]),
        *(device.upload(np.full(channels, start, a.dtype)) for _ in range(2)),
        device.upload(vectors[2]), device.upload(np.full(channels, 2.0, a.dtype)),
        images_of(device, a, order), images_of(device, unset, order), images_of(device, gb, order),
        images_of(device, np.full_like(a, start), order),
        *(room(device, 2 * channels, a.dtype).reshape(2, channels) for _ in range(2)),
        room(device, gpu_normalisation_scratch(sums), a.dtype), count,
        adds=adds, adds_input=adds, is_shared=is_shared,
    )  # fmt: skip


def share_on_cpu(modules: Iterable[normalisation.BatchNorm2d]) -> None:
    """Give every module the sum of all their sums."""
    total = np.sum([module.sums for module in modules], axis=0)
    for module in modules:
        module.sums[...] = total


def share(device: Device, modules: Iterable[BatchNorm2d]) -> None:
    """Give every module the sum of all their sums."""
    total = np.sum([device.read(module.sums) for module in modules], axis=0)
    for module in modules:
        device.write(module.sums, total)


def assert_alike(device: Device, found: BatchNorm2d, expected: normalisation.BatchNorm2d) -> None:
    """Compare all that a step leaves."""

    def check(array: DeviceArray, other: Host) -> None:
        np.testing.assert_allclose(device.read(array), other, rtol=ROUNDING, atol=ROUNDING)

    for name in ("running_mean", "running_var", "grad_gamma", "grad_beta"):
        check(getattr(found, name), getattr(expected, name))
    if found.count:
        check(found.saved, expected.saved)
    assert found.grad_input is not None
    for one, other in ((found.output, expected.output), (found.grad_input, expected.grad_input)):
        np.testing.assert_allclose(numbers_of(device, one), other, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("order", Order)
@SETTINGS
@given(SIDES, SIDES, SIDES, st.integers(0, 5), st.booleans(), SEEDS)
def test_a_step_equals_the_cpu_s(
    device: Device, order: Order, c: int, h: int, w: int, n: int, adds: bool, seed: int
) -> None:
    a, gb = 3 * normal(seed, 2, c, h, w, n) + 1
    vectors = normal(seed + 1, 3, c)
    expected = on_cpu(a, vectors, h * w * n, adds=adds, is_shared=False)
    found = on_device(device, order, a, gb, vectors, h * w * n, adds=adds, is_shared=False)
    for phase, given_ in zip(PHASES, (a, a, gb, gb), strict=True):
        getattr(expected, phase)(given_)
        getattr(found, phase)()
    assert_alike(device, found, expected)


@pytest.mark.parametrize("order", Order)
@SETTINGS
@given(SIDES, SIDES, SIDES, st.integers(1, 5), st.data(), st.booleans(), SEEDS)
def test_ranks_that_share_their_sums_equal_the_cpu_s(
    device: Device, order: Order, c: int, h: int, w: int, n: int, data: st.DataObject, adds: bool, seed: int
) -> None:  # fmt: skip
    cut = data.draw(st.integers(0, n))  # one may have no samples
    a, gb = 3 * normal(seed, 2, c, h, w, n) + 1
    vectors = normal(seed + 1, 3, c)
    parts = [np.ascontiguousarray(a[..., :cut]), np.ascontiguousarray(a[..., cut:])]
    gradients = [np.ascontiguousarray(gb[..., :cut]), np.ascontiguousarray(gb[..., cut:])]
    count = h * w * n
    expected = [on_cpu(part, vectors, count, adds=adds, is_shared=True) for part in parts]
    found = [
        on_device(device, order, *pair, vectors, count, adds=adds, is_shared=True)
        for pair in zip(parts, gradients, strict=True)
    ]
    for phase in PHASES:
        inputs = gradients if phase.startswith("backward") else parts
        for one, other, array in zip(found, expected, inputs, strict=True):
            getattr(one, phase)()
            getattr(other, phase)(array)
        if phase.endswith("sums"):
            share(device, found)
            share_on_cpu(expected)
    for one, other in zip(found, expected, strict=True):
        assert_alike(device, one, other)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("channels", [1, 20, 70])
def test_many_positions_in_parts_equal_the_cpu_s(
    device: Device, order: Order, is_shared: bool, channels: int
) -> None:
    shape = channels, 20, 20, 30
    a, gb = normal(0, 2, *shape)
    vectors = normal(1, 3, channels)
    assert ChannelSums(channels, 12000, order is Order.CHANNELS_LAST).parts > 1
    expected = on_cpu(a, vectors, 12000, adds=False, is_shared=is_shared)
    found = on_device(device, order, a, gb, vectors, 12000, adds=False, is_shared=is_shared)
    for phase, given_ in zip(PHASES, (a, a, gb, gb), strict=True):
        getattr(expected, phase)(given_)
        getattr(found, phase)()
    assert_alike(device, found, expected)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("dtype, mean, bound", [(np.float64, 1e6, 1e-9), (np.float32, 1e3, 1e-4)])
def test_a_large_mean_cancels_nothing(
    device: Device, order: Order, is_shared: bool, dtype: type, mean: float, bound: float
) -> None:
    # Squares about zero would lose 2 log10(mean) digits of the variance: twelve of 16, or six of 7.
    a = (mean + normal(0, 3, 10, 10, 40)).astype(dtype)
    vectors = np.stack([np.ones(3), np.zeros(3), np.full(3, mean)]).astype(dtype)
    found = on_device(device, order, a, a, vectors, 4000, adds=False, is_shared=is_shared)
    found.forward_sums()
    found.forward()
    inverse = device.read(found.saved)[1]
    variance = a.astype(np.float64).var((1, 2, 3))
    np.testing.assert_allclose(inverse, 1 / np.sqrt(variance + 1e-5), rtol=bound)


@pytest.mark.parametrize("order", Order)
def test_the_same_step_gives_the_same_bits(device: Device, order: Order) -> None:
    a, gb = normal(0, 2, 5, 9, 9, 60)
    vectors = normal(1, 3, 5)
    module = on_device(device, order, a, gb, vectors, 4860, adds=False, is_shared=False)
    assert module.grad_input is not None
    left = []
    for _ in range(2):
        device.write(module.running_var, np.ones(5))
        for phase in PHASES:
            getattr(module, phase)()
        left.append([
            device.read(each) for each in (
                module.grad_input.array, module.output.array, module.grad_gamma, module.running_var
            )
        ])  # fmt: skip
    for one, other in zip(*left, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("order", Order)
@SETTINGS
@given(SIDES, SIDES, SIDES, st.integers(0, 5), SEEDS)
def test_a_trained_network_normalises_by_running_statistics(
    device: Device, order: Order, c: int, h: int, w: int, n: int, seed: int
) -> None:
    a, vectors = normal(seed, c, h, w, n), normal(seed + 1, 4, c)
    vectors[3] = np.abs(vectors[3])
    expected = normalisation.normalise(a, *vectors, 1e-5, np.empty_like(a))
    output = images_of(device, np.full(a.shape, np.nan), order)
    normalise(
        device.stream(), images_of(device, a, order), output, *map(device.upload, vectors), 1e-5
    )()
    np.testing.assert_allclose(numbers_of(device, output), expected, rtol=ROUNDING, atol=ROUNDING)
