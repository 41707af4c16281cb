"""Device arrays: where numbers lie in an accelerator's memory. The host cannot look into one."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """Contiguous numbers (C order) from address ``pointer`` on; ``memory`` keeps them alive.

    A matrix may be ``is_transposed``: its columns are contiguous then, instead of its rows.
    """

    memory: object
    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_transposed: bool = False

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: slice) -> "DeviceArray":
        """Return the rows of a slice without steps."""
        self._check_rows()
        start, stop, step = place.indices(self.shape[0])
        if step != 1:
            raise ValueError(f"step must be 1, got {step}")
        rows = max(0, stop - start)
        offset = start * math.prod(self.shape[1:]) * self.itemsize
        return replace(self, pointer=self.pointer + offset, shape=(rows, *self.shape[1:]))

    def reshape(self, *lengths: int | tuple[int, ...]) -> "DeviceArray":
        """Return the same numbers in another shape; one length may be -1."""
        self._check_rows()
        shape = tuple(each for given in lengths for each in (given if isinstance(given, tuple) else (given,)))  # fmt: skip
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(self.size // known if each == -1 else each for each in shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"shape must have {self.size} elements, got {shape}")
        return replace(self, shape=shape)

    @property
    def T(self) -> "DeviceArray":  # noqa: N802  # NumPy's name
        """The transposed matrix."""
        return replace(self, shape=self.shape[::-1], is_transposed=not self.is_transposed)

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.size * self.itemsize

    def _check_rows(self) -> None:
        if self.is_transposed:
            raise ValueError("array must not be transposed")
