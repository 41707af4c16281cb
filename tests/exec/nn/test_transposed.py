import numpy as np
import pytest

from exec.nn.transposed import copy_transposed


@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 0), (0, 5), (0, 128), (3, 700), (700, 3), (300, 1024), (130, 128)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_copy_is_the_transpose_whatever_the_stride(shape: tuple[int, int], dtype: type) -> None:
    source = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    target = np.zeros(shape[::-1], np.float64)
    copy_transposed(source, target)
    np.testing.assert_array_equal(target, source.T)
