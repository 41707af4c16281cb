"""The workload: what one training step of a network costs, as counts of flops and bytes.

Nothing here depends on how the work is split; the plans ask for the cost of each op they make.
"""

import math
from dataclasses import dataclass

from exec.errors import UsageError
from exec.program.ops import Compute, Kernel, Shape


@dataclass(frozen=True, slots=True)
class Workload:
    """Layers of ``widths`` units, trained on ``global_batch`` samples a step.

    Layer ``l`` maps ``widths[l]`` inputs to ``widths[l + 1]`` units; all but the last end in a
    sigmoid, the last in softmax cross-entropy. ``itemsize`` is that of one number, in bytes.
    """

    widths: tuple[int, ...]
    global_batch: int
    itemsize: int = 4
    has_momentum: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise UsageError(f"net must have an input and an output width, got {self.net}")
        if min(self.widths) < 1:
            raise UsageError(f"net must have widths of at least 1, got {self.net}")
        if self.widths[-1] < 2:
            raise UsageError(f"net must end in at least 2 classes, got {self.net}")
        if self.global_batch < 1:
            raise UsageError(f"batch must be at least 1, got {self.global_batch}")

    @property
    def net(self) -> str:
        """The network as the command line spells it, such as ``128-100-26``."""
        return "-".join(map(str, self.widths))

    @property
    def num_layers(self) -> int:
        """The number of linear layers."""
        return len(self.widths) - 1

    @property
    def num_parameters(self) -> int:
        """All weights and biases."""
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return sum(m * (k + 1) for k, m in pairs)

    def layer_flops(self, layer: int) -> int:
        """Return the flops of ``layer``, forward and backward, for one sample."""
        shape = Shape(1, self.widths[layer], self.widths[layer + 1])
        backward = Kernel.LINEAR_BACKWARD if layer else Kernel.LINEAR_BACKWARD_FIRST
        return kernel_flops(Kernel.LINEAR, shape) + kernel_flops(backward, shape)

    def compute(self, kernel: Kernel, layer: int, microbatch: int, shape: Shape) -> Compute:
        """Return the op that runs ``kernel`` on ``shape``, with its counts."""
        nbytes = kernel_elements(kernel, shape) * self.itemsize
        return Compute(kernel, layer, microbatch, shape, kernel_flops(kernel, shape), nbytes)


def parse_net(text: str) -> tuple[int, ...]:
    """Return the widths that ``text`` spells.

    >>> parse_net("128-100-26")
    (128, 100, 26)
    """
    words = text.split("-")
    if len(words) < 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"net must be widths joined by '-', such as 128-100-26, got {text!r}")
    widths = tuple(map(int, words))
    if max(widths) > 10**7:
        raise UsageError(f"net must have widths of at most 10 million, got {text!r}")
    return widths


def kernel_flops(kernel: Kernel, shape: Shape) -> int:
    """Return the floating point operations of ``kernel`` on ``shape``.

    A multiply-add counts as two; an exponential, a logarithm or a division as one.
    """
    n, k, m = shape.n, shape.k, shape.m
    match kernel:
        case Kernel.LOAD:
            return 0
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD_FIRST:
            return 2 * n * k * m + n * m
        case Kernel.LINEAR_BACKWARD:
            return 4 * n * k * m + n * m
        case Kernel.SIGMOID:
            return 4 * n * m
        case Kernel.SIGMOID_BACKWARD:
            return 3 * n * m
        case Kernel.LOSS:
            return 7 * n * m
        case Kernel.UPDATE:
            return (4 if k else 2) * m
        case Kernel.ACCUMULATE:
            return m


def kernel_elements(kernel: Kernel, shape: Shape) -> int:
    """Return how many numbers ``kernel`` on ``shape`` must at least read and write."""
    n, k, m = shape.n, shape.k, shape.m
    match kernel:
        case Kernel.LOAD:
            return 2 * n * (k + m)
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD_FIRST:
            return n * k + k * m + n * m
        case Kernel.LINEAR_BACKWARD:
            return 2 * (n * k + k * m + n * m)
        case Kernel.SIGMOID | Kernel.LOSS:
            return 2 * n * m
        case Kernel.SIGMOID_BACKWARD:
            return 3 * n * m
        case Kernel.UPDATE:
            return (6 if k else 3) * m
        case Kernel.ACCUMULATE:
            return 3 * m


def positive(name: str, value: float, *, or_zero: bool = False) -> None:
    """Raise :class:`UsageError` unless ``value`` is finite and positive (or zero)."""
    if not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        least = "at least 0" if or_zero else "greater than 0"
        raise UsageError(f"{name} must be a finite number {least}, got {value}")
