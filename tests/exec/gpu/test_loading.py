"""Microbatches gathered on the device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu.images import Order
from exec.gpu.launch import MAX_GRID_Y, TILE
from exec.gpu.loading import advance, load_images
from tests.exec.gpu.arrays import DTYPES, SEEDS, SETTINGS, normal

LAYOUTS = pytest.mark.parametrize("into", ["rows", *Order])


@DTYPES
@LAYOUTS
@SETTINGS
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 20)),
    st.sampled_from([0, 1, 2, 31, 33, 70]), st.integers(0, 3), SEEDS,
)  # fmt: skip
def test_samples_are_those_of_the_order_from_the_position_on(
    device: Device,
    dtype: type,
    into: str,
    shape: tuple[int, int, int],
    n: int,
    start: int,
    seed: int,
) -> None:
    features, by = int(np.prod(shape)), 2
    num = n + 5
    images = normal(seed, num, features, dtype=dtype)
    order = np.random.default_rng(seed).permutation(num).astype(np.int32)
    stream, position = device.stream(), device.upload(np.zeros(1, np.int32))
    target = device.upload(np.full(n * features, np.nan, dtype))
    advance(stream, position, by)()
    load_images(
        stream, device.upload(images), device.upload(order), position, start, n, target,
        shape=shape, into=into if into == "rows" else Order(into),
    )()  # fmt: skip
    taken = images[order[by + start : by + start + n]].reshape(n, *shape)
    axes = {"rows": (0, 1, 2, 3), Order.SAMPLES_LAST: (1, 2, 3, 0), Order.CHANNELS_LAST: (0, 2, 3, 1)}  # fmt: skip
    np.testing.assert_array_equal(device.read(target), taken.transpose(axes[into]).reshape(-1))


@pytest.mark.parametrize("into", ["rows", Order.SAMPLES_LAST])
def test_more_samples_than_blocks_are_gathered(device: Device, into: str) -> None:
    n, features = (MAX_GRID_Y + 1) * (1 if into == "rows" else TILE) + 1, 2
    images, order = normal(1, n, features), np.arange(n, dtype=np.int32)[::-1].copy()
    stream, position = device.stream(), device.upload(np.zeros(1, np.int32))
    target = device.upload(np.full(n * features, np.nan))
    load_images(
        stream, device.upload(images), device.upload(order), position, 0, n, target,
        shape=(1, 1, features), into=into if into == "rows" else Order(into),
    )()  # fmt: skip
    taken = images[::-1] if into == "rows" else images[::-1].T
    np.testing.assert_array_equal(device.read(target), taken.reshape(-1))
