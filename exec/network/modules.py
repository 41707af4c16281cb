"""Modules: what a node of a network does to its input, as values without arrays.

Pairs are (height, width).
"""

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Linear:
    """``units`` weighted sums of all inputs."""

    units: int
    has_bias: bool = True


@dataclass(frozen=True, slots=True)
class Conv2d:
    """``filters`` weighted sums of a window of all channels, at every position."""

    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    has_bias: bool = True


@dataclass(frozen=True, slots=True)
class BatchNorm2d:
    """Each channel to mean 0 and variance 1 over a batch, then scaled and shifted.

    Source: S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by
    reducing internal covariate shift", ICML 2015.
    """

    eps: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True, slots=True)
class ReLU:
    """``max(0, a)``."""


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """``1 / (1 + exp(-a))``."""


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The largest of each window; padding never is."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, slots=True)
class AvgPool:
    """The mean of each window, its padding counted as zeros; without a kernel, of the whole image."""

    kernel: Pair | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclass(frozen=True, slots=True)
class Flatten:
    """All channels and positions as one row of units."""


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two inputs of one shape."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """A layer of which only the times are known, in picoseconds, and the sizes.

    A pass takes a fixed time and so much for each sample. It can be planned, not computed.
    """

    units: int
    num_parameters: int
    forward_ps: tuple[int, int]
    backward_ps: tuple[int, int]


Module = (
    Linear | Conv2d | BatchNorm2d | ReLU | Sigmoid | MaxPool | AvgPool | Flatten | Add | Profiled
)
