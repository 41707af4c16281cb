"""Scratch that is enough for a batch is enough for a smaller one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.scratch import (
    Convolution,
    average_pooling_channels,
    average_pooling_scratch,
    convolution_scratch,
    max_pooling_channels,
    max_pooling_scratch,
)

SIZES = st.integers(1, 3)


@settings(max_examples=300)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 70), st.integers(1, 40), st.integers(1, 20),
    st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES), st.tuples(st.integers(0, 1), st.integers(0, 1)),
)  # fmt: skip
def test_no_smaller_batch_of_a_convolution_needs_more(
    batch: int, fewer: int, channels: int, size: int, filters: int, kernel: tuple[int, int],
    stride: tuple[int, int], padding: tuple[int, int],
) -> None:  # fmt: skip
    size, fewer = max(size, *kernel), min(fewer, batch)
    shape = (channels, size, size, filters, kernel, stride, padding)
    assert Convolution(fewer, *shape).scratch <= convolution_scratch(batch, *shape)


def test_the_last_batch_of_mnist_would_need_more_than_a_whole_one() -> None:
    shape = (1, 28, 28, 16, (5, 5), (1, 1), (2, 2))
    assert Convolution(32, *shape).scratch > Convolution(64, *shape).scratch


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.integers(2, 40))
def test_no_smaller_batch_of_a_pooling_needs_more(
    batch: int, fewer: int, channels: int, size: int
) -> None:
    fewer = min(fewer, batch)
    shape = (size, size, (2, 2), (2, 2), (0, 0))
    one = max_pooling_scratch(fewer, 1, *shape)
    need = min(channels, max_pooling_channels(fewer, *shape)) * one
    assert need <= max_pooling_scratch(batch, channels, *shape)
    one = average_pooling_scratch(fewer, 1, *shape)
    need = min(channels, average_pooling_channels(one)) * one
    assert need <= average_pooling_scratch(batch, channels, *shape)
