"""Modules: ``forward(a) -> b`` and ``backward(gb) -> ga``, into buffers given at construction.

Nothing is allocated per step. A module belongs to one microbatch; the parameters it is given are
shared by all of them, and ``adds`` says whether its gradients are added to what is there.

Where arrays are small most of a step's time is that of calls. So ``bind_forward`` and
``bind_backward`` return a call that does the pass on arrays whose places are fixed: it makes the
plainest calls there are, on what was looked up once. ``forward`` and ``backward`` bind and call.
"""

from dataclasses import dataclass, field

from exec.nn.backend import Array, Call, outer_adder, xp
from exec.nn.gemm import gemm, product


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
    _ones: Array = field(init=False)

    def __post_init__(self) -> None:
        self._ones = xp.ones(self.output.shape[1], self.output.dtype)

    def forward(self, a: Array) -> Array:
        """Return ``b``; ``a`` is kept for the backward pass."""
        self.bind_forward(a)()
        return self.output

    def backward(self, gb: Array) -> Array | None:
        """Set, or add to, the parameters' gradients; return ``ga`` if there is room for it."""
        self.bind_backward(gb)()
        return self.grad_input

    def bind_forward(self, a: Array) -> Call:
        """Return a call that does the forward pass; ``a`` is kept for the backward one."""
        self._input = a
        output, row_major, copy = self.output, self.row_major, xp.copyto
        multiply = product(self.weight, a if row_major is None else row_major, output)
        add_bias = None if self.bias is None else outer_adder(1.0, self.bias, self._ones, output)

        def forward() -> None:
            if row_major is not None:
                copy(row_major, a)
            multiply()
            if add_bias is not None:
                add_bias()

        return forward

    def bind_backward(self, gb: Array) -> Call:
        """Return a call that does the backward pass of what was bound last."""
        turned, sum_columns, ones = self._input.T, gb.dot, self._ones
        grad_bias, adds = self.grad_bias, self.adds
        grad_weight = self.grad_weight
        if adds:
            weigh = gemm(1.0, gb, turned, 1.0, grad_weight)
        else:
            weigh = product(gb, turned, grad_weight)
        pass_on = self._input_call(gb)

        def backward() -> None:
            weigh()
            if grad_bias is not None:
                if adds:
                    xp.add(grad_bias, sum_columns(ones), grad_bias)
                else:
                    sum_columns(ones, grad_bias)
            if pass_on is not None:
                pass_on()

        return backward

    def _input_call(self, gb: Array) -> Call | None:
        """Return what sets, or adds to, the gradient of the input, if there is room for it."""
        if self.grad_input is None:
            return None
        factors = (gb.T, self.weight) if self.sample_major else (self.weight.T, gb)
        if self.adds_input:
            return gemm(1.0, *factors, 1.0, self.grad_input)
        return product(*factors, self.grad_input)


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

    def forward(self, a: Array) -> Array:
        """Return ``b``."""
        self.bind_forward(a)()
        return self._output

    def backward(self, gb: Array) -> Array:
        """Return ``ga = gb b (1 - b)``."""
        self.bind_backward(gb)()
        return gb if self.grad_input is None else self.grad_input

    def bind_forward(self, a: Array) -> Call:
        """Return a call that does the forward pass."""
        b = self._output = a if self.output is None else self.output
        multiply, add, tanh = xp.multiply, xp.add, xp.tanh
        half = xp.array(0.5, a.dtype)  # an array spares NumPy a conversion at every call

        def forward() -> None:
            multiply(a, half, b)
            tanh(b, b)
            multiply(b, half, b)
            add(b, half, b)

        return forward

    def bind_backward(self, gb: Array) -> Call:
        """Return a call that does the backward pass of what was bound last."""
        ga = gb if self.grad_input is None else self.grad_input
        b, slope, adds = self._output, self.scratch, self.adds_input
        subtract, multiply, add = xp.subtract, xp.multiply, xp.add
        one = xp.array(1.0, gb.dtype)

        def backward() -> None:
            subtract(one, b, slope)
            multiply(slope, b, slope)
            if adds:
                multiply(gb, slope, slope)
                add(ga, slope, ga)
            else:
                multiply(gb, slope, ga)

        return backward
