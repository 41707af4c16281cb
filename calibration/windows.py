"""Windows: what a shape tells of how a convolution or a pooling moves over its images.

A shape counts positions, not height and width, so images and windows are taken to be square.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from exec.network.scratch import Convolution
from exec.program.ops import Shape


@dataclass(frozen=True, slots=True)
class Window:
    """Along one axis: a window of ``kernel`` elements, ``output`` times, over ``input`` elements.

    ``inside`` is the share of the windows' elements that lie in the image and not in its padding.
    """

    input: float
    output: float
    kernel: float
    stride: int
    padding: int
    inside: float


@lru_cache(maxsize=65536)
def window_of(shape: Shape) -> Window:
    """Return the smallest stride, and the padding, that make ``p`` positions of ``q``.

    >>> window_of(Shape(1, 9, 1, 16, 16, 9))
    Window(input=4.0, output=4.0, kernel=3.0, stride=1, padding=1, inside=0.8333333333333334)
    """
    before, after, kernel = (math.sqrt(each) for each in (shape.q, shape.p, shape.w))
    stride = max(1, math.ceil((before - kernel + 1) / after - _NOT_SQUARE))
    padded = max(0.0, (after - 1) * stride + kernel - before)
    first = math.ceil(padded / 2 - _ROUNDING)
    outside = _outside(first, stride) + _outside(padded - first, stride)
    all_elements = after * kernel
    inside = max(min(before, kernel), all_elements - outside) / all_elements
    return Window(before, after, kernel, stride, first, inside)


def _outside(padding: float, stride: int) -> float:
    """Return how many elements of all windows lie in the ``padding`` at one end."""
    windows = max(0, math.ceil(padding / stride - _ROUNDING))
    return windows * padding - stride * windows * (windows - 1) / 2


@lru_cache(maxsize=65536)
def convolution_of(shape: Shape) -> Convolution:
    """Return the square convolution of ``shape``."""
    window = window_of(shape)
    side, kernel, stride, padding = round(window.input), round(window.kernel), window.stride, window.padding  # fmt: skip
    return Convolution(
        shape.n, shape.k // shape.w, side, side, shape.m, (kernel, kernel), (stride, stride),
        (padding, padding),
    )  # fmt: skip


_ROUNDING = 1e-9
_NOT_SQUARE = 0.1  # how far from a whole stride an image that is not square may seem
