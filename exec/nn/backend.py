"""The array module, chosen in this one place: NumPy today; CuPy offers the same names."""

from typing import Any

import numpy as np
import numpy as xp  # noqa: ICN001  # the name by which the network knows its array module
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]

DTYPES: dict[str, type[np.floating[Any]]] = {"float32": xp.float32, "float64": xp.float64}

__all__ = ["DTYPES", "Array", "Indices", "xp"]
