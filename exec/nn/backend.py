"""The array module, chosen in this one place: NumPy today; CuPy offers the same names."""

import numpy as xp
from numpy.typing import NDArray

Array = NDArray[xp.floating]

DTYPES = {"float32": xp.float32, "float64": xp.float64}

__all__ = ["DTYPES", "Array", "xp"]
