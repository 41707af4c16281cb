"""Windows: strides, padding and what lies inside the image, found again from counts alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.windows import convolution_of, window_of
from exec.network.scratch import Convolution
from exec.program.ops import Shape

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)


def counted_inside(side: int, kernel: int, stride: int, padding: int, outputs: int) -> float:
    """Return the share of the windows' elements that are in the image, one by one."""
    elements = [
        output * stride - padding + tap for output in range(outputs) for tap in range(kernel)
    ]
    return sum(0 <= element < side for element in elements) / len(elements)


@SETTINGS
@given(
    side=st.integers(4, 64), kernel=st.sampled_from([1, 3, 5, 7]), stride=st.integers(1, 2),
    is_padded=st.booleans(), channels=st.integers(1, 64), samples=st.integers(1, 64),
)  # fmt: skip
def test_a_square_convolution_is_found_from_its_shape(
    side: int, kernel: int, stride: int, is_padded: bool, channels: int, samples: int
) -> None:
    if kernel > side or (stride == 2 and side < 2 * kernel):
        return
    padding = kernel // 2 if is_padded else 0
    of = Convolution(
        samples, channels, side, side, 8, (kernel, kernel), (stride, stride), (padding, padding)
    )
    outputs = of.output_height
    shape = Shape(samples, channels * kernel**2, 8, outputs**2, side**2, kernel**2)
    window = window_of(shape)
    assert window.stride == stride
    expected = counted_inside(side, kernel, stride, padding, outputs)
    assert window.inside == pytest.approx(expected, rel=1e-9)
    found = convolution_of(shape)
    assert found.output_height == outputs
    assert found.gathers_patches == of.gathers_patches
    assert found.patch_block == of.patch_block


def test_a_window_of_the_whole_image_lies_inside() -> None:
    window = window_of(Shape(4, 49, 8, 1, 49, 49))
    assert (window.padding, window.inside) == (0, 1.0)


def test_images_that_are_not_square_are_taken_for_such() -> None:
    window = window_of(Shape(4, 9, 8, 128, 128, 9))  # of 16 x 8
    assert window.stride == 1
    square = window_of(Shape(4, 9, 8, 121, 121, 9))
    assert window.inside == pytest.approx(square.inside, abs=0.01)
