"""Two-dimensional convolution (cross-correlation), by products of matrices.

Images are (channels, height, width, samples): a row of an image is a matrix (channels, columns
and samples), and so is any run of its columns. Two ways, one object each; the shape decides.
"""

from dataclasses import dataclass, field

from exec.network.modules import Pair
from exec.network.scratch import Convolution
from exec.nn.backend import Array, xp
from exec.nn.patch_convolution import PatchConvolution
from exec.nn.row_convolution import RowConvolution


@dataclass(slots=True)
class Conv2d:
    """``b[f] = bias[f] + sum over c, kh, kw of weight[f, kh, kw, c] a[c]``, shifted.

    ``weight`` is (filters, kernel height, kernel width, channels), ``bias`` (filters,) or None;
    their gradients have the same shapes. ``output`` is (filters, output height, output width,
    samples); ``grad_input`` has the shape of the input, or is None where nobody needs it.
    ``work`` has at least ``convolution_scratch`` elements. ``adds`` adds to the gradients of the
    parameters, ``adds_input`` to ``grad_input``.
    """

    weight: Array
    bias: Array | None
    grad_weight: Array
    grad_bias: Array | None
    output: Array
    work: Array
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    grad_input: Array | None = None
    adds: bool = False
    adds_input: bool = False
    _input: Array = field(init=False)
    _way: PatchConvolution | RowConvolution | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.grad_input is not None:
            self._bind(self.grad_input.shape)

    def forward(self, a: Array) -> Array:
        """Return ``b``; ``a`` is kept for the backward pass."""
        self._input = a
        if not self.output.size:
            return self.output
        if self._way is None:
            self._bind(a.shape)
            assert self._way is not None
        self._way.forward(a)
        return self.output

    def backward(self, gb: Array) -> Array | None:
        """Set, or add to, the parameters' gradients; return ``ga`` if there is room for it."""
        if not self.adds:
            self.grad_weight.fill(0)
        if self.grad_bias is not None:
            flat = gb.reshape(len(gb), -1)
            if self.adds:
                self.grad_bias += xp.add.reduce(flat, axis=1)
            else:
                xp.add.reduce(flat, axis=1, out=self.grad_bias)
        if not gb.size:
            return self.grad_input
        assert self._way is not None
        self._way.backward_weight(self._input, gb)
        if self.grad_input is not None:
            self._way.backward_input(gb, self.grad_input, adds=self.adds_input)
        return self.grad_input

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Prepare for inputs of ``shape``."""
        channels, height, width, samples = shape
        filters, kernel_height, kernel_width, _ = self.weight.shape
        of = Convolution(
            samples, channels, height, width, filters, (kernel_height, kernel_width),
            self.stride, self.padding,
        )  # fmt: skip
        assert self.weight.shape[3] == channels
        assert self.output.shape == (filters, of.output_height, of.output_width, samples)
        assert self.work.size >= of.scratch
        if not samples:
            return
        way = PatchConvolution if of.gathers_patches else RowConvolution
        self._way = way(of, self.weight, self.bias, self.grad_weight, self.output, self.work)
