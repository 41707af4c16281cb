"""An oracle for gradients: central finite differences in float64."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# f(x + h) - f(x - h) = 2 h f'(x) + h^3 f'''/3 + 2 delta, where delta is the rounding of f. With
# h = 1e-5, |f'''| below 100, and f below 10 computed with fewer than 100 roundings of 1.1e-16:
# the error of f' is below h^2 100 / 6 + delta / h = 2e-9 + 1e-13 / 1e-5 = 1.2e-8.
STEP = 1e-5
ABS = 2e-8


def gradient_of(f: Callable[[], float], x: Array) -> Array:
    """Return df/dx, each element of ``x`` moved in turn and put back."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + STEP
        above = f()
        x[index] = kept - STEP
        below = f()
        x[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient
