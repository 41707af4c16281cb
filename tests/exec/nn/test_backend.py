import numpy as np
import pytest

from exec.nn.backend import adder, outer_adder


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_change_the_array_itself_whatever_its_shape(dtype: str) -> None:
    x, y = np.full((3, 4), 2.0, dtype), np.ones((3, 4), dtype)
    adder(-0.5, x, y)()
    assert (y == 0.0).all()  # 1 - 2 / 2, exact
    outer_adder(2.0, np.arange(3, dtype=dtype), np.ones(4, dtype), y)()
    assert (y == 2.0 * np.arange(3)[:, None]).all()


def test_arrays_that_blas_would_copy_are_refused() -> None:
    whole = np.zeros((4, 4))
    with pytest.raises(ValueError, match="contiguous"):
        adder(1.0, np.zeros(4), whole[:, 0])
    with pytest.raises(ValueError, match="contiguous"):
        outer_adder(1.0, np.zeros(4), np.zeros(4), whole.T)
    with pytest.raises(ValueError, match="float64"):
        adder(1.0, np.zeros(4, np.float32), np.zeros(4))
