"""Images for the tests of the modules that take them."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[int, int]


def normal(seed: int, *shape: int) -> Array:
    """Return standard normal numbers."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def samples_first(images: Array) -> Array:
    """Return (channels, height, width, samples) as (samples, channels, height, width)."""
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2))


def samples_last(images: Array) -> Array:
    """Return (samples, channels, height, width) as (channels, height, width, samples)."""
    return np.ascontiguousarray(images.transpose(1, 2, 3, 0))


@st.composite
def windows(draw: st.DrawFn, most_padding: int = 2) -> tuple[Pair, Pair, Pair, Pair]:
    """Draw (height, width), kernel, stride and padding that fit; padding below the kernel / most."""
    axes = []
    for _ in range(2):
        kernel = draw(st.integers(1, 4))
        padding = draw(st.integers(0, kernel // most_padding))
        length = draw(st.integers(max(1, kernel - 2 * padding), 7))
        axes.append((length, kernel, draw(st.integers(1, 3)), padding))
    size, kernel, stride, padding = zip(*axes, strict=True)
    return size, kernel, stride, padding
