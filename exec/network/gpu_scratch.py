"""How much shared scratch the modules of a network need on a GPU, and how they divide it.

Pure arithmetic, so that a plan can count memory without arrays; the modules work within exactly
this. All sizes are elements of the arrays' own type.
"""

from dataclasses import dataclass

from exec.network.modules import BatchNorm2d, Conv2d, Linear
from exec.network.network import Network
from exec.network.scratch import Convolution

COLUMNS = 2**24
"""Elements of gathered columns that a convolution multiplies at a time: they stay in the cache."""

_THREADS = 256
_CHANNELS = 32  # of a block, side by side: a whole line of the cache
_POSITIONS = 16  # of a thread, at least
_BLOCKS = 512  # enough to keep the memory busy
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class ChannelSums:
    """How blocks of threads share sums over the positions of each channel.

    A block has ``width`` channels by ``lanes`` positions at a time. Channels are in ``tiles``, the
    positions in ``parts`` of ``length``, the last of which may be shorter.
    """

    channels: int
    positions: int
    is_channels_last: bool

    @property
    def width(self) -> int:
        """Channels of a block."""
        return max(1, min(self.channels, _CHANNELS)) if self.is_channels_last else 1

    @property
    def lanes(self) -> int:
        """Positions that a block takes at a time: a power of two."""
        return 1 << (_THREADS // self.width).bit_length() - 1

    @property
    def tiles(self) -> int:
        """Blocks for all channels."""
        return -(-self.channels // self.width)

    @property
    def most_parts(self) -> int:
        """Parts at most, for so many positions or fewer."""
        return min(
            -(-self.positions // (self.lanes * _POSITIONS)), max(1, _BLOCKS // max(1, self.tiles))
        )

    @property
    def length(self) -> int:
        """Positions of a part."""
        most = max(1, self.most_parts)
        return max(1, -(-self.positions // (most * self.lanes))) * self.lanes

    @property
    def parts(self) -> int:
        """Parts of the positions."""
        return -(-self.positions // self.length)


def gpu_scratch_elements(
    network: Network, node: int, inputs: int, outputs: int, samples: int, *, is_channels_last: bool
) -> int:
    """Return the elements of scratch of ``node`` of ``inputs`` channels to ``outputs``, on a GPU.

    It is enough for up to ``samples`` samples.
    """
    value = network.nodes[node].inputs[0]
    height, width = network.shape(value)[1:]
    match network.nodes[node].module:
        case Conv2d(_, kernel, stride, padding):
            of = Convolution(samples, inputs, height, width, outputs, kernel, stride, padding)
            return gpu_convolution_scratch(of, is_channels_last=is_channels_last)
        case BatchNorm2d():
            sums = ChannelSums(outputs, samples * height * width, is_channels_last)
            return gpu_normalisation_scratch(sums)
        case Linear():
            return (
                inputs * samples
                if is_channels_last and network.is_flattened(network.nodes[node])
                else 0
            )
        case _:
            return 0


def has_columns(of: Convolution) -> bool:
    """Say whether columns have to be gathered: not for a kernel of one pixel without stride."""
    return (of.kernel, of.stride, of.padding) != ((1, 1), (1, 1), (0, 0))


def column_rows(of: Convolution) -> int:
    """Return how many rows of the output are taken at a time where samples are last."""
    row = of.kernel[0] * of.kernel[1] * of.channels * of.row
    return max(1, min(of.output_height, COLUMNS // max(1, row)))


def column_samples(of: Convolution) -> int:
    """Return how many samples are taken at a time where channels are last."""
    terms = of.kernel[0] * of.kernel[1] * of.channels
    sample = terms * of.output_height * of.output_width
    return max(1, min(of.samples, COLUMNS // max(1, sample)))


def gpu_column_scratch(of: Convolution, *, is_channels_last: bool) -> int:
    """Return the elements of the columns that are gathered at a time, at most."""
    if not has_columns(of):
        return 0
    terms = of.kernel[0] * of.kernel[1] * of.channels
    pixels = of.output_height * of.output_width
    least = terms * (pixels if is_channels_last else of.row)
    return min(terms * pixels * of.samples, max(COLUMNS, least))


def gpu_library_scratch(of: Convolution, *, is_channels_last: bool) -> int:
    """Return the elements of scratch that a convolution by a library needs.

    The library does not add, so that what it gives needs room before it is added; and it takes the
    channels last, so that other images need room in that order.
    """
    before = aligned(of.channels * of.height * of.width * of.samples)
    after = aligned(of.filters * of.output_height * of.output_width * of.samples)
    weights = of.filters * of.kernel[0] * of.kernel[1] * of.channels
    return max(before, weights) if is_channels_last else before + after + weights


def aligned(size: int) -> int:
    """Return ``size``, rounded up such that what is behind it begins where libraries expect it."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def gpu_convolution_scratch(of: Convolution, *, is_channels_last: bool) -> int:
    """Return the elements of scratch that a convolution of up to ``of.samples`` samples needs.

    Enough by columns or by a library, and for the partial sums of the gradient of a bias.
    """
    if not of.samples:
        return 0
    places = of.output_height * of.row
    return max(
        gpu_column_scratch(of, is_channels_last=is_channels_last),
        gpu_library_scratch(of, is_channels_last=is_channels_last) if has_columns(of) else 0,
        gpu_bias_scratch(ChannelSums(of.filters, places, is_channels_last)),
    )


def gpu_bias_scratch(sums: ChannelSums) -> int:
    """Return the elements of scratch that the gradient of a bias needs."""
    return sums.channels * sums.most_parts


def gpu_normalisation_scratch(sums: ChannelSums) -> int:
    """Return the elements of scratch that a batch normalisation needs: two sums of each part."""
    return 2 * sums.channels * sums.most_parts
