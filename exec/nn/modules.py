"""Modules: ``forward(a) -> b`` and ``backward(gb) -> ga``, into buffers given at construction.

Nothing is allocated per step. A module belongs to one microbatch; the parameters it is given are
shared by all of them, and ``adds`` says whether its gradients are added to what is there.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from exec.nn.backend import Array, Call, outer_adder, xp
from exec.nn.gemm import gemm


@dataclass(slots=True)
class Linear:
    """``b = W a + bias``.

    ``weight`` is (units, inputs), ``bias`` (units,) or None; their gradients have the same
    shapes. ``output`` is (units, samples); ``grad_input`` (inputs, samples), or (samples, inputs)
    if ``sample_major``, or None where nobody needs it; ``adds`` adds to the gradients of the
    parameters, ``adds_input`` to that of the input. ``row_major``, if given, is room for a copy of
    an input that is not in row order: the kernels that BLAS has for small products are fast only
    for operands that are.
    """

    weight: Array
    bias: Array | None
    grad_weight: Array
    grad_bias: Array | None
    output: Array
    grad_input: Array | None = None
    adds: bool = False
    row_major: Array | None = None
    sample_major: bool = False
    adds_input: bool = False
    _input: Array = field(init=False)
    _add_bias: Call | None = field(init=False)
    _ones: Array = field(init=False)
    _is_plain: bool = field(init=False)
    _gb: Array | None = field(init=False, default=None)
    _add_weight: Call = field(init=False)
    _add_input: Call = field(init=False)

    def __post_init__(self) -> None:
        self._ones = xp.ones(self.output.shape[1], self.output.dtype)
        self._is_plain = not (self.sample_major or self.adds_input)
        self._add_bias = None
        if self.bias is not None:
            self._add_bias = outer_adder(1.0, self.bias, self._ones, self.output)

    def forward(self, a: Array) -> Array:
        """Return ``b``; ``a`` is kept for the backward pass."""
        self._input = a
        if self.row_major is not None:
            xp.copyto(self.row_major, a)
            a = self.row_major
        xp.dot(self.weight, a, out=self.output)
        if self._add_bias is not None:
            self._add_bias()
        return self.output

    def backward(self, gb: Array) -> Array | None:
        """Set, or add to, the parameters' gradients; return ``ga`` if there is room for it."""
        if self.adds:
            self._bind(gb)
            self._add_weight()
            if self.grad_bias is not None:
                self.grad_bias += xp.dot(gb, self._ones)
        else:
            xp.dot(gb, self._input.T, out=self.grad_weight)
            if self.grad_bias is not None:
                xp.dot(gb, self._ones, out=self.grad_bias)
        if self.grad_input is not None:
            if self._is_plain:
                xp.dot(self.weight.T, gb, out=self.grad_input)
            else:
                self._backward_input(gb, self.grad_input)
        return self.grad_input

    def _backward_input(self, gb: Array, grad_input: Array) -> None:
        """Set, or add to, a gradient of the input in either order."""
        if not self.adds_input:
            xp.dot(gb.T, self.weight, out=grad_input)
            return
        self._bind(gb)
        self._add_input()

    def _bind(self, gb: Array) -> None:
        """Prepare what is added for ``gb``, which is in the same place in every step."""
        if gb is self._gb:
            return
        self._gb = gb
        if self.adds:
            self._add_weight = gemm(1.0, gb, self._input.T, 1.0, self.grad_weight)
        if self.adds_input and self.grad_input is not None:
            factors = (gb.T, self.weight) if self.sample_major else (self.weight.T, gb)
            self._add_input = gemm(1.0, *factors, 1.0, self.grad_input)


@dataclass(slots=True)
class Sigmoid:
    """``b = 1 / (1 + exp(-a))``, as ``(tanh(a / 2) + 1) / 2``, which cannot overflow.

    ``b`` is over ``a``, and ``ga`` over ``gb``, where there is no room for them. ``scratch`` and,
    if given, ``output`` and ``grad_input`` have the shape of ``a``; ``adds_input`` adds to
    ``grad_input``.
    """

    scratch: Array
    output: Array | None = None
    grad_input: Array | None = None
    adds_input: bool = False
    _output: Array = field(init=False)
    _half: Any = field(init=False)
    _one: Any = field(init=False)

    def __post_init__(self) -> None:
        # Scalars of the arrays' own type spare NumPy a conversion at every call.
        self._half, self._one = (self.scratch.dtype.type(value) for value in (0.5, 1.0))

    def forward(self, a: Array) -> Array:
        """Return ``b``."""
        half, b = self._half, a if self.output is None else self.output
        xp.multiply(a, half, out=b)
        xp.tanh(b, out=b)
        xp.multiply(b, half, out=b)
        xp.add(b, half, out=b)
        self._output = b
        return b

    def backward(self, gb: Array) -> Array:
        """Return ``ga = gb b (1 - b)``."""
        ga = gb if self.grad_input is None else self.grad_input
        xp.subtract(self._one, self._output, out=self.scratch)
        xp.multiply(self.scratch, self._output, out=self.scratch)
        if self.adds_input:
            xp.multiply(gb, self.scratch, out=self.scratch)
            xp.add(ga, self.scratch, out=ga)
        else:
            xp.multiply(gb, self.scratch, out=ga)
        return ga


@dataclass(slots=True)
class SoftmaxCrossEntropy:
    """The loss ``-scale * sum log p[label]`` and, in place of the logits, its gradient.

    ``targets`` is (classes, samples): ``scale`` where the label is, else zero. ``total`` grows by
    the loss of every batch until it is reset.
    """

    scale: float
    targets: Array
    total: float = 0.0
    _flat_targets: Array = field(init=False)
    _row: Array = field(init=False)
    _logs: Array = field(init=False)
    _weights: Array = field(init=False)
    _ones: Array = field(init=False)
    _offset: float = field(init=False)
    _logits: Array | None = field(init=False, default=None)
    _flat_logits: Array = field(init=False)
    _subtract_row: Call = field(init=False)

    def __post_init__(self) -> None:
        classes, samples = self.targets.shape
        dtype = self.targets.dtype
        self._flat_targets = self.targets.reshape(-1)
        self._row = xp.empty(samples, dtype)
        self._logs = xp.empty(samples, dtype)
        # Sums of exponentials are taken in units of the scale, which spares a pass that applies it.
        self._weights = xp.full(classes, 1.0 / self.scale, dtype)
        self._offset = samples * math.log(self.scale)
        self._ones = xp.ones(samples, dtype)

    def _bind(self, logits: Array) -> None:
        """Prepare for ``logits``, which are in the same place in every step."""
        self._logits, self._flat_logits = logits, logits.reshape(-1)
        ones_column = xp.ones(len(logits), logits.dtype)
        self._subtract_row = outer_adder(-1.0, ones_column, self._row, logits)

    def forward_backward(self, logits: Array) -> Array:
        """Return the gradient ``scale * (softmax(logits) - onehot)`` in the place of ``logits``.

        Where arrays are small most of the time is that of calls, so they are the plainest there are.
        """
        if logits is not self._logits:
            self._bind(logits)
        row, logs = self._row, self._logs
        xp.maximum.reduce(logits, axis=0, out=row)
        self._subtract_row()
        scaled_label_logits = self._flat_logits.dot(self._flat_targets)
        xp.exp(logits, logits)
        self._weights.dot(logits, row)
        xp.log(row, logs)
        logged = float(logs.dot(self._ones)) + self._offset
        self.total += self.scale * logged - float(scaled_label_logits)
        xp.divide(logits, row, logits)
        xp.subtract(logits, self.targets, logits)
        return logits
