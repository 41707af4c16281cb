"""The rectifier, in place or not."""

from dataclasses import dataclass, field
from typing import Any

from exec.nn.backend import Array, xp

_BLOCK = 2**14


@dataclass(slots=True)
class ReLU:
    """``b = max(a, 0)``: over ``a``, and ``ga`` over ``gb``, where there is no room for them.

    ``output`` and ``grad_input``, if given, have the shape of ``a``; ``adds_input`` adds to
    ``grad_input``.
    """

    output: Array | None = None
    grad_input: Array | None = None
    adds_input: bool = False
    _output: Array = field(init=False)
    _passes: Any = field(init=False)
    _share: Array | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._passes = xp.empty(_BLOCK, bool)

    def forward(self, a: Array) -> Array:
        """Return ``b``."""
        b = a if self.output is None else self.output
        xp.maximum(a, a.dtype.type(0), out=b)
        self._output = b
        return b

    def backward(self, gb: Array) -> Array:
        """Return ``ga``: ``gb`` where ``b`` is positive, else zero."""
        found = gb if self.grad_input is None else self.grad_input
        adds = self.adds_input and self.grad_input is not None
        if adds and self._share is None:
            self._share = xp.empty(_BLOCK, gb.dtype)
        b, gradient, place = (x.reshape(-1) for x in (self._output, gb, found))
        zero = b.dtype.type(0)
        for start in range(0, b.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            length = min(_BLOCK, b.size - start)
            passes = self._passes[:length]
            xp.greater(b[block], zero, out=passes)
            if adds:
                assert self._share is not None
                share = self._share[:length]
                xp.multiply(gradient[block], passes, out=share)
                xp.add(place[block], share, out=place[block])
            else:
                xp.multiply(gradient[block], passes, out=place[block])
        return found
