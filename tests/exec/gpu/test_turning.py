"""Transposed copies on the device: matrices, and images in either order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu.images import Images, Order
from exec.gpu.launch import MAX_GRID_Y
from exec.gpu.transposed import copy_transposed, flatten, permute, reorder, unflatten
from tests.exec.gpu.arrays import ADDS, DTYPES, LENGTHS, SEEDS, SETTINGS, Array, normal

FEW = st.integers(0, 4)


def arranged(chwn: Array, order: Order) -> Array:
    """Return images (channels, height, width, samples) in ``order``."""
    return chwn if order is Order.SAMPLES_LAST else np.ascontiguousarray(chwn.transpose(3, 1, 2, 0))


def images_of(device: Device, chwn: Array, order: Order) -> Images:
    """Return them on the device."""
    return Images(device.upload(arranged(chwn, order).reshape(-1)), *chwn.shape, order)


@DTYPES
@ADDS
@SETTINGS
@given(LENGTHS, LENGTHS, SEEDS)
def test_matrices_are_transposed(
    device: Device, dtype: type, adds: bool, m: int, n: int, seed: int
) -> None:
    a, start = normal(seed, m, n, dtype=dtype), normal(seed + 1, n, m, dtype=dtype)
    target = device.upload(start if adds else np.full_like(start, np.nan))
    copy_transposed(device.stream(), device.upload(a), target, adds=adds)()
    np.testing.assert_array_equal(device.read(target), start + a.T if adds else a.T)


@DTYPES
@SETTINGS
@given(st.sampled_from([0, 1, 3, 40]), FEW, st.sampled_from([0, 1, 2, 33]), SEEDS)
def test_three_axes_are_permuted(
    device: Device, dtype: type, a: int, b: int, c: int, seed: int
) -> None:
    source = normal(seed, a, b, c, dtype=dtype)
    target = device.upload(np.full((c, b, a), np.nan, dtype))
    permute(device.stream(), device.upload(source), target, (a, b, c))()
    np.testing.assert_array_equal(device.read(target), source.transpose(2, 1, 0))


def test_more_matrices_than_blocks_are_turned(device: Device) -> None:
    source = normal(1, 3, MAX_GRID_Y + 2, 2)
    target = device.upload(np.full(source.T.shape, np.nan))
    permute(device.stream(), device.upload(source), target, source.shape)()
    np.testing.assert_array_equal(device.read(target), source.T)


@DTYPES
@ADDS
@SETTINGS
@given(
    st.tuples(st.sampled_from([1, 3, 34]), FEW, FEW, st.sampled_from([0, 1, 2, 35])),
    st.sampled_from(list(Order)), st.sampled_from(list(Order)), SEEDS,
)  # fmt: skip
def test_images_change_their_order_and_come_back(
    device: Device, dtype: type, adds: bool, shape: tuple[int, int, int, int], first: Order,
    second: Order, seed: int,
) -> None:  # fmt: skip
    stream = device.stream()
    a, start = (normal(seed + i, *shape, dtype=dtype) for i in range(2))
    images, target = images_of(device, a, first), images_of(device, start, second)
    reorder(stream, images, target, adds=adds)()
    expected = a + start if adds else a
    np.testing.assert_array_equal(device.read(target.array), arranged(expected, second).reshape(-1))
    units = device.upload(start.reshape(-1, shape[3]) if shape[3] else np.zeros((0, 0), dtype))
    flatten(stream, images, units, adds=adds)()
    np.testing.assert_array_equal(device.read(units).reshape(-1), expected.reshape(-1))
    unflatten(stream, units, images, adds=adds)()
    back = expected + a if adds else expected
    np.testing.assert_array_equal(device.read(images.array), arranged(back, first).reshape(-1))
