"""The plain kernels, which also show how a kernel is tested."""

import numpy as np
import pytest

from exec.device.protocol import Device, Stream

pytestmark = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def test_accumulate_adds(device: Device, stream: Stream, dtype: type) -> None:
    into = device.upload(np.arange(1000, dtype=dtype))
    source = device.upload(np.full(1000, 0.5, dtype))
    add = stream.bind_kernel("accumulate", dtype, (2,), (256,), into, source, 999)
    add()
    add()
    expected = np.arange(1000, dtype=dtype) + 1
    expected[999] -= 1
    np.testing.assert_array_equal(device.read(into), expected)


def test_scale_multiplies(device: Device, stream: Stream, dtype: type) -> None:
    a = device.upload(np.arange(100, dtype=dtype))
    stream.bind_kernel("scale", dtype, (1,), (32,), a, 100, 0.25)()
    np.testing.assert_array_equal(device.read(a), np.arange(100, dtype=dtype) / 4)


def test_fill_writes_what_it_is_told_and_no_more(
    device: Device, stream: Stream, dtype: type
) -> None:
    a = device.upload(np.zeros(100, dtype))
    stream.bind_kernel("fill", dtype, (3,), (32,), a, 99, 1.5)()
    whole = device.upload(np.zeros(100, np.int32))
    stream.bind_kernel("fill_int", dtype, (3,), (32,), whole, 99, -2)()
    assert device.read(a).tolist() == [1.5] * 99 + [0]
    assert device.read(whole).tolist() == [-2] * 99 + [0]


def test_a_grid_without_blocks_does_nothing(device: Device, stream: Stream, dtype: type) -> None:
    a = device.upload(np.ones(1, dtype))
    stream.bind_kernel("fill", dtype, (0,), (32,), a, 1, 7.0)()
    assert device.read(a).tolist() == [1]
