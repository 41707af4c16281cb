"""Convolution row by row: products of the rows as they are, shifted by the kernel's columns.

A row of the output is the sum over the kernel's positions of (filters, channels) matrices by
shifted runs of a row of the input; a run ends where the image ends, so that padding costs
nothing. Rows are copied once into scratch, in which neighbours stay in the cache, columns a stride
apart lie together, and channels are not a power of two apart. The products' arguments are
therefore the same for every image.

Source: A. Anderson, A. Vasudevan, C. Keane and D. Gregg, "Low-memory GEMM-based convolution
algorithms for deep neural networks", arXiv:1709.03395 (the sum of shifted products).
"""

from dataclasses import dataclass, field
from itertools import product

from exec.network.scratch import LINE, SMALL_PRODUCT, Convolution
from exec.nn.backend import Array, xp
from exec.nn.gemm import Arguments, gemm_arguments, moved, multiplier

_SMALL_SIDE = 32
"""OpenBLAS multiplies by a transposed matrix in place of packing it up to about 32 x 32 results."""

_FEW_UNITS = 128
_SHORT = 64

Calls = dict[tuple[int, int], list[Arguments]]


@dataclass(slots=True)
class RowConvolution:
    """The three passes of one convolution; arrays as in ``Conv2d``."""

    of: Convolution
    weight: Array
    bias: Array | None
    grad_weight: Array
    output: Array
    work: Array
    _forward: Calls = field(init=False)
    _backward_weight: Calls = field(init=False)
    _backward_input: Calls = field(init=False)
    _input_rows: list[Array] = field(init=False)
    _output_row: Array = field(init=False)
    _gradient_rows: list[Array] = field(init=False)
    _input_gradient: Array = field(init=False)

    def __post_init__(self) -> None:
        of = self.of
        x, y = (of.channels, of.input_leading), (of.filters, of.output_leading)
        *self._input_rows, self._output_row = self._divide([x] * of.kernel[0] + [y])
        *self._gradient_rows, self._input_gradient = self._divide([y] * of.gradient_rows + [x])
        step, grad_step = self.weight.strides[1], self.grad_weight.strides[1]
        x_bytes, y_bytes = self._input_rows[0].nbytes, self._gradient_rows[0].nbytes
        taps = list(product(range(of.kernel[0]), range(of.kernel[0])))
        self._forward = _moved(self._forward_calls(), taps, step, x_bytes, 0)
        self._backward_weight = _moved(self._backward_weight_calls(), taps, 0, x_bytes, grad_step)
        taps = list(product(range(of.kernel[0]), range(of.gradient_rows)))
        self._backward_input = _moved(self._backward_input_calls(), taps, step, y_bytes, 0)

    def forward(self, a: Array) -> None:
        """Set the output."""
        of, multiply = self.of, multiplier(self.output.dtype.name)
        y = self._columns(self._output_row, of.output_width)
        start = 0 if self.bias is None else self.bias[:, None]
        known = 0
        for oh in range(of.output_height):
            known = self._load(a, oh, known)
            xp.copyto(self._output_row, start)
            for kh, slot in self._taps(oh):
                for arguments in self._forward[kh, slot]:
                    multiply(*arguments)
            xp.copyto(self.output[:, oh], y)

    def backward_weight(self, a: Array, gb: Array) -> None:
        """Add to the gradient of the weight."""
        of, multiply = self.of, multiplier(self.output.dtype.name)
        y = self._columns(self._output_row, of.output_width)
        known = 0
        for oh in range(of.output_height):
            known = self._load(a, oh, known)
            xp.copyto(y, gb[:, oh])
            for kh, slot in self._taps(oh):
                for arguments in self._backward_weight[kh, slot]:
                    multiply(*arguments)

    def backward_input(self, gb: Array, grad_input: Array, *, adds: bool) -> None:
        """Set, or add to, the gradient of the input."""
        of, multiply = self.of, multiplier(self.output.dtype.name)
        step, pad, slots = of.stride[0], of.padding[0], len(self._gradient_rows)
        rows = [self._columns(row, of.output_width) for row in self._gradient_rows]
        if not adds and sum(count for _, count in of.phases) < of.width:
            grad_input.fill(0)
        known = 0
        for h in range(of.height):
            reached = min((h + pad) // step + 1, of.output_height)
            for oh in range(max(known, reached - slots), reached):
                xp.copyto(rows[oh % slots], gb[:, oh])
            known = max(known, reached)
            self._input_gradient.fill(0)
            for kh in range(of.kernel[0]):
                oh, rest = divmod(h + pad - kh, step)
                if not rest and 0 <= oh < of.output_height:
                    for arguments in self._backward_input[kh, oh % slots]:
                        multiply(*arguments)
            for found, place in self._phases(self._input_gradient, grad_input[:, h]):
                if adds:
                    xp.add(place, found, out=place)
                else:
                    xp.copyto(place, found)

    def _load(self, a: Array, oh: int, known: int) -> int:
        """Copy the rows that row ``oh`` of the output needs, from ``known``; return the next row."""
        of = self.of
        first = oh * of.stride[0] - of.padding[0]
        end = max(known, min(first + of.kernel[0], of.height))
        for h in range(max(known, first), end):
            for place, found in self._phases(self._input_rows[h % of.kernel[0]], a[:, h]):
                xp.copyto(place, found)
        return end

    def _taps(self, oh: int) -> list[tuple[int, int]]:
        """Return the kernel rows that row ``oh`` of the output sees, and where their rows are."""
        of = self.of
        first = oh * of.stride[0] - of.padding[0]
        return [
            (kh, (first + kh) % of.kernel[0])
            for kh in range(of.kernel[0])
            if 0 <= first + kh < of.height
        ]

    def _phases(self, matrix: Array, row: Array) -> list[tuple[Array, Array]]:
        """Return, for every phase, its columns in ``matrix`` and in a ``row`` of an image."""
        of, start, pairs = self.of, 0, []
        for first, count in of.phases:
            end = first + (count - 1) * of.stride[1] + 1
            if count:
                inside = matrix[:, start * of.samples :]
                pairs.append((self._columns(inside, count), row[:, first : end : of.stride[1]]))
            start += count
        return pairs

    def _columns(self, matrix: Array, count: int) -> Array:
        """Return the first ``count`` columns as (units, columns, samples)."""
        samples = self.of.samples
        return matrix[:, : count * samples].reshape(len(matrix), count, samples)

    def _runs(self) -> list[tuple[int, slice, slice]]:
        """Return every kernel column, and the elements of an input and an output row it joins."""
        of, runs, start = self.of, [], 0
        step, pad, samples = of.stride[1], of.padding[1], of.samples
        for phase, (first, count) in enumerate(of.phases):
            lowest = (first + pad) // step
            for shift, kw in enumerate(range(phase, of.kernel[1], step)):
                low = max(0, lowest - shift)
                length = min(of.output_width, lowest + count - shift) - low
                x = start + low + shift - lowest
                if length > 0:
                    runs.append((
                        kw,
                        slice(x * samples, (x + length) * samples),
                        slice(low * samples, (low + length) * samples),
                    ))  # fmt: skip
            start += count
        return runs

    def _forward_calls(self) -> list[Arguments]:
        """Return the products that add a row's share by kernel row 0 to the output row."""
        weight, row, place = self.weight[:, 0], self._input_rows[0], self._output_row
        return [
            gemm_arguments(1.0, weight[:, kw], row[:, x][:, part], 1.0, place[:, y][:, part])
            for kw, x, y in self._runs()
            for part in self._parts(x)
        ]

    def _backward_input_calls(self) -> list[Arguments]:
        """Return the products that add a gradient row's share to the input row's gradient."""
        weight, row, place = self.weight[:, 0], self._gradient_rows[0], self._input_gradient
        return [
            gemm_arguments(1.0, weight[:, kw].T, row[:, y][:, part], 1.0, place[:, x][:, part])
            for kw, x, y in self._runs()
            for part in self._parts(x)
        ]

    def _parts(self, run: slice) -> list[slice]:
        """Divide a run so that the products are small ones, if that leaves them long enough."""
        length = run.stop - run.start
        most = SMALL_PRODUCT // (self.of.channels * self.of.filters) // LINE * LINE
        return _divide(length, most if most >= _SHORT else length)

    def _backward_weight_calls(self) -> list[Arguments]:
        """Return the products that add a pair of rows to the gradient of kernel row 0."""
        of, calls = self.of, []
        small = max(of.filters, of.channels) <= _FEW_UNITS
        side, most = (_SMALL_SIDE, SMALL_PRODUCT // _SMALL_SIDE**2) if small else (0, 0)
        for kw, x, y in self._runs():
            for f, c, part in product(
                _divide(of.filters, side or of.filters),
                _divide(of.channels, side or of.channels),
                _divide(x.stop - x.start, most or x.stop - x.start),
            ):
                gb, a = self._output_row[f, y][:, part], self._input_rows[0][c, x][:, part]
                calls.append(gemm_arguments(1.0, gb, a.T, 1.0, self.grad_weight[f, 0, kw, c]))
        return calls

    def _divide(self, shapes: list[tuple[int, int]]) -> list[Array]:
        """Return matrices of ``shapes``, one after the other in the scratch."""
        arrays, start = [], 0
        for rows, columns in shapes:
            end = start + rows * columns
            arrays.append(self.work[start:end].reshape(rows, columns))
            start = end
        return arrays


def _divide(length: int, most: int) -> list[slice]:
    """Return as few parts of at most ``most`` as there can be, whole cache lines but for the last."""
    count = -(-length // most)
    lines = -(-length // (count * LINE))
    step = min(most, lines * LINE)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _moved(calls: list[Arguments], taps: list[tuple[int, int]], a: int, b: int, c: int) -> Calls:
    """Return, for each kernel row and place of a row in the scratch, ``calls`` moved there.

    ``a`` and ``c`` are the bytes between kernel rows, ``b`` between places.
    """
    return {
        (kh, slot): [moved(arguments, kh * a, slot * b, kh * c) for arguments in calls]
        for kh, slot in taps
    }
