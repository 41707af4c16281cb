"""Convolution by products of matrices with gathered columns: what the kernel sees at each place.

With samples last some rows of the output at a time, columns (positions and channels, places); with
channels last some samples at a time, columns (places, positions and channels). A kernel of one
pixel without stride sees the image as it is.

Source: K. Chellapilla, S. Puri and P. Simard, "High performance convolutional neural networks for
document processing", IWFHR 2006.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from exec.device.array import DeviceArray
from exec.device.protocol import Argument, Call, Stream
from exec.gpu.calls import in_turn
from exec.gpu.grids import check_work, plane
from exec.gpu.images import Images, Order
from exec.network.gpu_scratch import column_rows, column_samples, gpu_column_scratch, has_columns
from exec.network.scratch import Convolution


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix within an array: its rows (transposed: its columns) are ``leading`` elements apart."""

    array: DeviceArray
    leading: int

    @property
    def T(self) -> "Matrix":  # noqa: N802  # NumPy's name
        """The transposed matrix."""
        return Matrix(self.array.T, self.leading)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Samples ``first`` to ``last`` and rows ``top`` to ``bottom`` of the output.

    ``columns`` and ``output`` are the matrices there: (terms, places) and (filters, places) with
    samples last, else (places, terms) and (places, filters).
    """

    first: int
    last: int
    top: int
    bottom: int
    columns: Matrix
    output: Matrix


@dataclass(frozen=True, slots=True)
class ColumnConvolution:
    """The three passes of a convolution of images in ``order``; arrays as in ``convolution.py``."""

    stream: Stream
    of: Convolution
    order: Order
    work: DeviceArray

    def __post_init__(self) -> None:
        needed = gpu_column_scratch(self.of, is_channels_last=self._is_last)
        check_work(self.work, needed)

    def forward(self, a: Images, weight: DeviceArray, output: Images) -> Call:
        """Return a call that sets ``output``."""
        calls: list[Call] = []
        factor = self._terms(weight)
        for chunk in self._chunks(a, output):
            calls += self._gather(a, chunk)
            a_columns = chunk.columns
            pair = (a_columns, factor.T) if self._is_last else (factor, a_columns)
            calls.append(self._product(*pair, chunk.output, adds=False))
        return in_turn(*calls)

    def backward_weight(
        self, a: Images, gb: Images, grad_weight: DeviceArray, *, adds: bool
    ) -> Call:
        """Return a call that sets, or adds to, ``grad_weight``."""
        calls: list[Call] = []
        for chunk in self._chunks(a, gb):
            is_added = adds or bool(calls)
            calls += self._gather(a, chunk)
            gradient, columns = chunk.output, chunk.columns
            pair = (gradient.T, columns) if self._is_last else (gradient, columns.T)
            calls.append(self._product(*pair, self._terms(grad_weight), adds=is_added))
        return in_turn(*calls)

    def backward_input(
        self, weight: DeviceArray, gb: Images, grad_input: Images, *, adds: bool
    ) -> Call:
        """Return a call that sets, or adds to, ``grad_input``."""
        calls: list[Call] = []
        factor, seen = self._terms(weight), 0
        for chunk in self._chunks(grad_input, gb):
            gradient = chunk.output
            pair = (gradient, factor) if self._is_last else (factor.T, gradient)
            is_whole = not has_columns(self.of)
            calls.append(self._product(*pair, chunk.columns, adds=adds and is_whole))
            if not is_whole:
                rows = self._reached(chunk)
                calls.append(self._scatter(grad_input, chunk, rows, seen, adds=adds))
                seen = 0 if self._is_last else rows.stop
        return in_turn(*calls)

    @property
    def _is_last(self) -> bool:
        return self.order is Order.CHANNELS_LAST

    def _chunks(self, before: Images, after: Images) -> Iterator[Chunk]:
        """Yield the chunks of an output ``after`` of an image ``before``."""
        of, terms = self.of, self._num_terms
        pixels = of.output_height * of.output_width
        if self._is_last:
            step = column_samples(of) if has_columns(of) else of.samples
            for first in range(0, of.samples, step):
                last = min(first + step, of.samples)
                places = (last - first) * pixels
                columns = self.work if has_columns(of) else before.array
                yield Chunk(
                    first, last, 0, of.output_height,
                    _matrix(columns, 0, places, terms, terms),
                    _matrix(after.array, first * pixels * of.filters, places, of.filters, of.filters),
                )  # fmt: skip
            return
        step = column_rows(of) if has_columns(of) else of.output_height
        for top in range(0, of.output_height, step):
            bottom = min(top + step, of.output_height)
            places = (bottom - top) * of.row
            columns = self.work if has_columns(of) else before.array
            yield Chunk(
                0, of.samples, top, bottom,
                _matrix(columns, 0, terms, places, places),
                _matrix(after.array, top * of.row, of.filters, places, pixels * of.samples),
            )  # fmt: skip

    def _gather(self, a: Images, chunk: Chunk) -> list[Call]:
        """Return what sets the columns of ``chunk``."""
        of = self.of
        if not has_columns(of):
            return []
        outer, inner, first = self._planes(chunk)
        rows = chunk.bottom - chunk.top
        call = self.stream.bind_kernel(
            "im2col", a.array.dtype, *plane(outer * rows, of.output_width * inner),
            _from(a.array, first), self.work, outer, of.height, of.width, inner, chunk.top, rows,
            *self._geometry, *self._distances(chunk),
        )  # fmt: skip
        return [call]

    def _scatter(
        self, grad_input: Images, chunk: Chunk, reached: range, seen: int, *, adds: bool
    ) -> Call:
        """Return what gives the columns of ``chunk`` to the rows ``reached`` of the input.

        Those below ``seen`` have been given a share before.
        """
        of = self.of
        outer, inner, first = self._planes(chunk)
        return self.stream.bind_kernel(
            "col2im", grad_input.array.dtype, *plane(outer * len(reached), of.width * inner),
            self.work, _from(grad_input.array, first), outer, of.height, of.width, inner,
            chunk.top, chunk.bottom - chunk.top, *self._geometry, *self._distances(chunk),
            reached.start, reached.stop, seen, int(adds),
        )  # fmt: skip

    def _reached(self, chunk: Chunk) -> range:
        """Return the rows of the input that ``chunk`` reaches, and those that no chunk does."""
        of = self.of
        stride, padding, kernel = of.stride[0], of.padding[0], of.kernel[0]
        start, stop = chunk.top * stride - padding, chunk.bottom * stride - padding
        if chunk.bottom == of.output_height:
            return range(max(0, min(start, of.height)), of.height)
        return range(max(0, start), max(0, min(max(stop, stop - stride + kernel), of.height)))

    def _planes(self, chunk: Chunk) -> tuple[int, int, int]:
        """Return outer and inner lengths of the input of ``chunk``, and where it starts."""
        of = self.of
        if self._is_last:
            first = chunk.first * of.height * of.width * of.channels
            return chunk.last - chunk.first, of.channels, first
        return of.channels, of.samples, 0

    def _distances(self, chunk: Chunk) -> tuple[int, int, int, int]:
        """Return how far the columns of an image, tap, row and column of the output are apart."""
        of, terms = self.of, self._num_terms
        if self._is_last:
            row = of.output_width * terms
            return of.output_height * row, of.channels, row, terms
        places = (chunk.bottom - chunk.top) * of.row
        return places, of.channels * places, of.row, of.samples

    @property
    def _geometry(self) -> tuple[Argument, ...]:
        of = self.of
        return of.output_width, *of.kernel, *of.stride, *of.padding

    @property
    def _num_terms(self) -> int:
        return self.of.kernel[0] * self.of.kernel[1] * self.of.channels

    def _terms(self, weight: DeviceArray) -> Matrix:
        """Return ``weight`` as a matrix with a row for every filter."""
        return _matrix(weight, 0, self.of.filters, self._num_terms, self._num_terms)

    def _product(self, a: Matrix, b: Matrix, c: Matrix, *, adds: bool) -> Call:
        return self.stream.bind_product(
            a.array, b.array, c.array, beta=float(adds),
            leading=(a.leading, b.leading, c.leading),
        )  # fmt: skip


def _matrix(array: DeviceArray, start: int, rows: int, columns: int, leading: int) -> Matrix:
    """Return the matrix whose first element is element ``start`` of ``array``."""
    return Matrix(replace(_from(array, start), shape=(rows, columns)), leading)


def _from(array: DeviceArray, start: int) -> DeviceArray:
    """Return ``array`` from element ``start`` on."""
    return array.reshape(-1)[start:]
