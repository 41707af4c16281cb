"""How much shared scratch the modules of a network need, and how they divide it.

Pure arithmetic, so that a plan can count memory without arrays; the modules work within exactly
this. All sizes are elements of the arrays' own type.
"""

from dataclasses import dataclass

from exec.network.modules import AvgPool, BatchNorm2d, Conv2d, Linear, MaxPool, Pair, Sigmoid
from exec.network.network import Network

BLOCK = 2**15
"""Elements that element-wise modules take at a time, so that several passes stay in the cache."""

PATCHES = 2**18
"""Elements of gathered patches that a convolution multiplies at a time."""

SMALL_PRODUCT = 10**6
"""Multiply-adds up to which OpenBLAS has kernels for small products (`SMALL_MATRIX_OPT`)."""

LINE = 16
"""Float32 elements of a cache line."""

_FEW_CHANNELS = 8
_SHORT_ROW = 48
_ENOUGH_COLUMNS = 256


def scratch_elements(network: Network, node: int, inputs: int, outputs: int, samples: int) -> int:
    """Return the elements of scratch of ``node`` of ``inputs`` channels to ``outputs``."""
    module = network.nodes[node].module
    height, width = network.shape(network.nodes[node].inputs[0])[1:]
    match module:
        case Linear():
            return min(inputs * samples, SMALL_PRODUCT // max(outputs, 1))
        case Sigmoid():
            return outputs * network.pixels(node) * samples
        case Conv2d(_, kernel, stride, padding):
            return convolution_scratch(
                samples, inputs, height, width, outputs, kernel, stride, padding
            )
        case BatchNorm2d():
            return normalisation_scratch(samples, outputs, height, width)
        case MaxPool(kernel, stride, padding):
            return max_pooling_scratch(samples, outputs, height, width, kernel, stride, padding)
        case AvgPool(kernel, stride, padding):
            kernel = kernel or (height, width)
            return average_pooling_scratch(samples, outputs, height, width, kernel, stride, padding)
        case _:
            return 0


def leading(columns: int) -> int:
    """Return a row length of at least ``columns``: an odd number of cache lines.

    Rows a power of two apart compete for the same few places of the cache.
    """
    return (-(-columns // LINE) | 1) * LINE


@dataclass(frozen=True, slots=True)
class Convolution:
    """The shape of a convolution: ``kernel``, ``stride`` and ``padding`` are (height, width)."""

    samples: int
    channels: int
    height: int
    width: int
    filters: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    @property
    def output_height(self) -> int:
        """Rows of the output."""
        return output_length(self.height, self.kernel[0], self.stride[0], self.padding[0])

    @property
    def output_width(self) -> int:
        """Columns of the output."""
        return output_length(self.width, self.kernel[1], self.stride[1], self.padding[1])

    @property
    def row(self) -> int:
        """Elements of one row of the output, of one filter."""
        return self.output_width * self.samples

    @property
    def gathers_patches(self) -> bool:
        """Whether patches are gathered for long products, rather than rows multiplied as they are."""
        return self.channels < _FEW_CHANNELS or self.row < _SHORT_ROW

    @property
    def phases(self) -> list[tuple[int, int]]:
        """First input column and number of them, of every phase of the horizontal stride.

        Column w of the input is of phase (w + padding) % stride. A phase that no kernel column
        meets is left out.
        """
        step, pad = self.stride[1], self.padding[1]
        phases = []
        for phase in range(min(step, self.kernel[1])):
            first = phase - pad + max(0, -((phase - pad) // step)) * step
            phases.append((first, max(0, -((first - self.width) // step))))
        return phases

    @property
    def input_leading(self) -> int:
        """Row length of a matrix (channels, columns and samples) of one row of the input."""
        return leading(sum(count for _, count in self.phases) * self.samples)

    @property
    def output_leading(self) -> int:
        """Row length of a matrix (filters, columns and samples) of one row of the output."""
        return leading(self.row)

    @property
    def gradient_rows(self) -> int:
        """Rows of the output that one row of the input can reach."""
        return -(-self.kernel[0] // self.stride[0])

    @property
    def patch_block(self) -> tuple[int, int]:
        """Kernel positions and rows of the output that are gathered at a time."""
        taps = self.kernel[0] * self.kernel[1]
        row = max(1, self.row)
        rows = min(self.output_height, -(-_ENOUGH_COLUMNS // row))
        group = max(1, min(taps, PATCHES // (self.channels * rows * row)))
        if group == taps:
            rows = max(rows, min(self.output_height, PATCHES // (taps * self.channels * row)))
        return group, rows

    @property
    def patch_scratch(self) -> int:
        """Elements of scratch for a block of gathered patches."""
        group, rows = self.patch_block
        return group * self.channels * leading(rows * self.row)

    @property
    def row_scratch(self) -> int:
        """Elements of scratch for the rows that one row of the output, or of the input, needs."""
        x, y = self.channels * self.input_leading, self.filters * self.output_leading
        return max(self.kernel[0] * x + y, x + self.gradient_rows * y)

    @property
    def scratch(self) -> int:
        """Elements of scratch that the passes need at most."""
        if not self.samples:
            return 0
        return self.patch_scratch if self.gathers_patches else self.row_scratch


def output_length(length: int, kernel: int, stride: int, padding: int) -> int:
    """Return how many places a kernel has along an axis."""
    return (length + 2 * padding - kernel) // stride + 1


def convolution_scratch(
    samples: int, channels: int, height: int, width: int, filters: int, kernel: Pair, stride: Pair, padding: Pair
) -> int:  # fmt: skip
    """Return the elements of scratch that a convolution of up to ``samples`` samples needs.

    Fewer samples may need more of it than all, for they let more patches be gathered at a time.
    """
    of = Convolution(samples, channels, height, width, filters, kernel, stride, padding)
    if not samples:
        return 0
    row = of.row if channels < _FEW_CHANNELS else min(of.row, _SHORT_ROW - 1)
    taps = kernel[0] * kernel[1]
    block = max(PATCHES, channels * (row + _ENOUGH_COLUMNS - 1))
    block += taps * channels * (leading(1) + LINE - 1)  # what rows are lengthened by
    patches = min(block, taps * channels * leading(of.output_height * row))
    return patches if of.gathers_patches else max(patches, of.row_scratch)


def normalisation_scratch(samples: int, channels: int, height: int, width: int) -> int:
    """Return the elements of scratch that a batch normalisation needs."""
    return min(BLOCK, samples * channels * height * width)


def max_pooling_scratch(
    samples: int, channels: int, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> int:
    """Return the elements of scratch that a max pooling of up to ``samples`` samples needs."""
    one = _max_pooling_of_a_channel(samples, height, width, kernel, stride, padding)
    return min(channels * one, max(2 * BLOCK, one))


def max_pooling_channels(
    samples: int, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> int:
    """Return how many channels a max pooling takes at a time."""
    one = _max_pooling_of_a_channel(samples, height, width, kernel, stride, padding)
    return max(1, 2 * BLOCK // max(1, one))


def _max_pooling_of_a_channel(
    samples: int, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> int:
    """Return the room for a channel.

    It holds the maxima of the columns and their gradient, the gradient not given away yet, a share
    of it, and a mask of a byte an element: at most a quarter of an element of the arrays' type.
    """
    columns = output_length(width, kernel[1], stride[1], padding[1])
    rows = output_length(height, kernel[0], stride[0], padding[0])
    row = columns * samples
    share = max(height, rows) * row
    return 2 * height * row + rows * row + share + -(-share // 4)


def average_pooling_scratch(
    samples: int, channels: int, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> int:
    """Return the elements of scratch that an average pooling of up to ``samples`` samples needs."""
    columns = output_length(width, kernel[1], stride[1], padding[1])
    rows = output_length(height, kernel[0], stride[0], padding[0])
    one = rows * columns * samples
    return min(channels * one, max(BLOCK, one))


def average_pooling_channels(outputs: int) -> int:
    """Return how many channels of ``outputs`` elements an average pooling takes at a time."""
    return max(1, BLOCK // max(1, outputs))
