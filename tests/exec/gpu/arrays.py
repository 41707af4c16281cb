"""Numbers for the device: normal ones, exact references, and what rounding may do to a sum."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from exec.device.array import DeviceArray
from exec.device.protocol import Device

Array = NDArray[Any]

SETTINGS = settings(max_examples=12)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ADDS = pytest.mark.parametrize("adds", [False, True])
SEEDS = st.integers(0, 2**32)
# Around nothing, one, a tile and a block.
LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 8, 31, 32, 33, 65]) | st.integers(0, 80)


def normal(seed: int, *shape: int, dtype: Any = np.float64) -> Array:
    """Return normal numbers that ``dtype`` can hold, in that type."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def askew(device: Device, host: Array, offset: int) -> DeviceArray:
    """Return a copy that begins ``offset`` elements behind an aligned address."""
    room = device.upload(np.concatenate([np.zeros(offset, host.dtype), host.reshape(-1)]))
    return room[offset:].reshape(*host.shape)


def unwritten(device: Device, *shape: int, dtype: Any) -> DeviceArray:
    """Return an array whose contents must not matter."""
    return device.upload(np.full(shape, np.nan, dtype))


def rounding(dtype: Any, operations: int) -> float:
    """Return the relative error of a chain of roundings: gamma_k = k u / (1 - k u).

    Source: N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1; u is eps / 2,
    and twice as much is granted for exponentials, logarithms and tangents of a few units.
    """
    unit = operations * float(np.finfo(dtype).eps)
    return unit / (1 - unit)


def assert_within(found: Array, expected: Array, magnitude: Array | float, relative: float) -> None:
    """Fail where ``found`` is farther from ``expected`` than ``relative`` of the sum of ``magnitude``."""
    assert found.shape == expected.shape
    excess = np.abs(found.astype(np.float64) - expected) - relative * np.asarray(magnitude)
    assert not np.isnan(excess).any()
    assert excess.max(initial=0.0) <= 0.0
