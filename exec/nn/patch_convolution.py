"""Convolution by gathered patches, for few channels or short rows: fewer, longer products.

The input under every kernel position is copied into the rows of a matrix, a block of output rows
(and of kernel positions) at a time, with zeros where the kernel leaves the image.

Source: K. Chellapilla, S. Puri and P. Simard, "High performance convolutional neural networks for
document processing", IWFHR 2006.
"""

from dataclasses import dataclass, field

from exec.network.scratch import Convolution, leading
from exec.nn.backend import Array, xp
from exec.nn.gemm import Arguments, gemm_arguments, multiplier
from exec.nn.window import meeting

Index = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A block of output rows by kernel positions: the matrix, its columns and its terms."""

    patches: Array  # (positions and channels, output rows, columns and samples)
    columns: slice  # of the output, flattened
    terms: slice  # of the weight, flattened
    inside: list[tuple[Array, Index]]  # a position's image in the matrix, and its source
    outside: list[Array]  # the rest of the matrix: zero
    is_first: bool  # of the blocks of these columns


@dataclass(slots=True)
class PatchConvolution:
    """The three passes of one convolution; arrays as in ``Conv2d``."""

    of: Convolution
    weight: Array
    bias: Array | None
    grad_weight: Array
    output: Array
    work: Array
    _blocks: list[Block] = field(init=False)
    _forward: list[Arguments] = field(init=False)
    _backward_weight: list[Arguments] = field(init=False)
    _backward_input: list[Arguments] = field(init=False)
    _gb: Array | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        of = self.of
        group, rows = of.patch_block
        taps = of.kernel[0] * of.kernel[1]
        self._blocks = [
            self._block(range(tap, min(tap + group, taps)), row, min(row + rows, of.output_height))
            for row in range(0, of.output_height, rows)
            for tap in range(0, taps, group)
        ]
        weight, output = self._flat(self.weight), self._flat(self.output)
        self._forward = [
            gemm_arguments(1.0, weight[:, block.terms], block.patches, 1.0, output[:, block.columns])
            for block in self._blocks
        ]  # fmt: skip

    def forward(self, a: Array) -> None:
        """Set the output."""
        multiply, output = multiplier(self.output.dtype.name), self._flat(self.output)
        start = 0 if self.bias is None else self.bias[:, None]
        for block, arguments in zip(self._blocks, self._forward, strict=True):
            if block.is_first:
                xp.copyto(output[:, block.columns], start)
            self._gather(a, block)
            multiply(*arguments)

    def backward_weight(self, a: Array, gb: Array) -> None:
        """Add to the gradient of the weight."""
        self._bind(gb)
        multiply = multiplier(self.output.dtype.name)
        for block, arguments in zip(self._blocks, self._backward_weight, strict=True):
            self._gather(a, block)
            multiply(*arguments)

    def backward_input(self, gb: Array, grad_input: Array, *, adds: bool) -> None:
        """Set, or add to, the gradient of the input."""
        self._bind(gb)
        multiply = multiplier(self.output.dtype.name)
        if not adds:
            grad_input.fill(0)
        for block, arguments in zip(self._blocks, self._backward_input, strict=True):
            multiply(*arguments)
            for found, index in block.inside:
                place = grad_input[index]
                xp.add(place, found, out=place)

    def _gather(self, a: Array, block: Block) -> None:
        """Copy the patches of ``block``."""
        for place in block.outside:
            place.fill(0)
        for place, index in block.inside:
            xp.copyto(place, a[index])

    def _bind(self, gb: Array) -> None:
        """Prepare for ``gb``, which is in the same place in every step."""
        if gb is self._gb:
            return
        self._gb = gb
        gb = self._flat(gb)
        weight, grad_weight = self._flat(self.weight), self._flat(self.grad_weight)
        self._backward_weight = [
            gemm_arguments(1.0, gb[:, block.columns], block.patches.T, 1.0, grad_weight[:, block.terms])
            for block in self._blocks
        ]  # fmt: skip
        self._backward_input = [
            gemm_arguments(1.0, weight[:, block.terms].T, gb[:, block.columns], 0.0, block.patches)
            for block in self._blocks
        ]

    def _block(self, taps: range, top: int, bottom: int) -> Block:
        """Return kernel positions ``taps`` of output rows ``top`` to ``bottom``."""
        of = self.of
        rows, width = bottom - top, of.row
        terms = len(taps) * of.channels
        length = leading(rows * width)
        matrix = self.work[: terms * length].reshape(terms, length)[:, : rows * width]
        images = matrix.reshape(len(taps), of.channels, rows, of.output_width, of.samples)
        inside: list[tuple[Array, Index]] = []
        outside: list[Array] = []
        for image, tap in zip(images, taps, strict=True):
            kh, kw = divmod(tap, of.kernel[1])
            (h, from_h), (w, from_w) = (
                meeting(top, bottom, kh, of.height, of.stride[0], of.padding[0]),
                meeting(0, of.output_width, kw, of.width, of.stride[1], of.padding[1]),
            )
            rest = (
                image[:, : h.start], image[:, h.stop :],
                image[:, h, : w.start], image[:, h, w.stop :],
            )  # fmt: skip
            outside += [part for part in rest if part.size]
            if image[:, h, w].size:
                inside.append((image[:, h, w], (slice(None), from_h, from_w)))
        return Block(
            matrix,
            slice(top * width, bottom * width),
            slice(taps.start * of.channels, taps.stop * of.channels),
            inside,
            outside,
            taps.start == 0,
        )

    def _flat(self, array: Array) -> Array:
        """Return ``array`` as a matrix with a row for every filter."""
        return array.reshape(self.of.filters, -1)
