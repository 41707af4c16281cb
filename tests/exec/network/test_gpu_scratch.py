"""Scratch on a GPU: enough for what is taken at a time, and for fewer samples."""

from hypothesis import given
from hypothesis import strategies as st

from exec.network.gpu_scratch import (
    COLUMNS,
    ChannelSums,
    column_rows,
    column_samples,
    gpu_column_scratch,
    gpu_convolution_scratch,
    gpu_normalisation_scratch,
    gpu_scratch_elements,
    has_columns,
)
from exec.network.modules import Conv2d, Flatten, Linear
from exec.network.network import build
from exec.network.scratch import Convolution

SIDES, SAMPLES = st.integers(1, 300), st.integers(1, 5000)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Draw a convolution that may be larger than all columns at a time."""
    kernel, stride = (draw(st.tuples(st.integers(1, 5), st.integers(1, 5))) for _ in range(2))
    height, width = draw(st.integers(kernel[0], 300)), draw(st.integers(kernel[1], 300))
    channels, filters, samples = draw(SIDES), draw(SIDES), draw(SAMPLES)
    return Convolution(samples, channels, height, width, filters, kernel, stride, (0, 0))


def fewer(of: Convolution, samples: int) -> Convolution:
    """Return the same of fewer samples."""
    least = min(samples, of.samples)
    return Convolution(
        least, of.channels, of.height, of.width, of.filters, of.kernel, of.stride, of.padding
    )


@given(convolutions(), SAMPLES)
def test_columns_at_a_time_fit_into_the_scratch_of_more_samples(
    of: Convolution, samples: int
) -> None:
    own = fewer(of, samples)
    terms = of.kernel[0] * of.kernel[1] * of.channels
    if has_columns(of):
        rows = terms * column_rows(own) * own.row
        assert rows <= gpu_column_scratch(of, is_channels_last=False)
        images = terms * column_samples(own) * own.output_height * own.output_width
        assert images <= gpu_column_scratch(of, is_channels_last=True)
        assert rows <= max(COLUMNS, terms * own.row)
    for is_last in (False, True):
        assert gpu_convolution_scratch(own, is_channels_last=is_last) <= gpu_convolution_scratch(
            of, is_channels_last=is_last
        )


@given(SIDES, st.integers(0, 10**7), st.integers(0, 10**7), st.booleans())
def test_parts_hold_every_position_once_and_fit_into_the_scratch_of_more(
    channels: int, positions: int, more: int, is_last: bool
) -> None:
    sums = ChannelSums(channels, positions, is_last)
    assert (sums.parts - 1) * sums.length < max(positions, 1) <= max(sums.parts, 1) * sums.length
    assert sums.tiles * sums.width >= channels
    assert sums.width * sums.lanes <= 256
    assert sums.lanes & (sums.lanes - 1) == 0
    room = gpu_normalisation_scratch(ChannelSums(channels, positions + more, is_last))
    assert 2 * channels * sums.parts <= room


def test_a_dense_layer_flattens_images_of_more_than_one_pixel() -> None:
    steps = [
        ("conv", Conv2d(5, (3, 3)), ()),
        ("flatten", Flatten(), ()),
        ("fc1", Linear(7), ()),
        ("fc2", Linear(3), ()),
    ]
    network = build("net", (2, 5, 4), steps)
    sizes = [
        gpu_scratch_elements(network, node, inputs, outputs, 6, is_channels_last=True)
        for node, inputs, outputs in ((1, 5, 30), (2, 30, 7), (3, 7, 3))
    ]
    assert network.admits_channels_last
    assert sizes == [0, 30 * 6, 0]
    assert not gpu_scratch_elements(network, 2, 30, 7, 6, is_channels_last=False)
