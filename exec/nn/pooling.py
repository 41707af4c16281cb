"""Maximum and average pooling of images (channels, height, width, samples)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from exec.network.modules import Pair
from exec.network.scratch import (
    average_pooling_channels,
    average_pooling_scratch,
    max_pooling_channels,
    max_pooling_scratch,
)
from exec.nn.backend import Array, xp
from exec.nn.window import meetings

Tap = tuple[slice, slice]


@dataclass(slots=True)
class MaxPool:
    """The maximum of every window; padding is minus infinity.

    Columns first, then rows. The backward pass finds the maxima again from the input and the
    output, and gives the gradient to the first of equal ones, row by row of the window.
    ``output`` is (channels, output height, output width, samples); ``work`` has at least
    ``max_pooling_scratch`` elements.
    """

    output: Array
    kernel: Pair
    stride: Pair
    padding: Pair
    work: Array
    grad_input: Array | None = None
    adds_input: bool = False
    _input: Array = field(init=False)
    _axes: tuple["_Axis", "_Axis"] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.grad_input is not None:
            self._bind(self.grad_input)

    def forward(self, a: Array) -> Array:
        """Return the maxima; ``a`` is kept for the backward pass."""
        self._input = a
        vertical, horizontal = self._axes or self._bind(a)
        for channels in self._blocks():
            narrow = self._room(channels)[0]
            horizontal.maxima(a[channels], narrow)
            vertical.maxima(narrow, self.output[channels])
        return self.output

    def backward(self, gb: Array) -> Array | None:
        """Return ``ga`` if there is room for it."""
        if self.grad_input is None or self._axes is None:
            return self.grad_input
        a, (vertical, horizontal) = self._input, self._axes
        for channels in self._blocks():
            narrow, gradient, left, share, mask = self._room(channels)
            horizontal.maxima(a[channels], narrow)
            xp.copyto(left, gb[channels])
            vertical.give(left, self.output[channels], narrow, gradient, share, mask, adds=False)
            place = self.grad_input[channels]
            horizontal.give(gradient, narrow, a[channels], place, share, mask, adds=self.adds_input)
        return self.grad_input

    def _bind(self, a: Array) -> tuple["_Axis", "_Axis"]:
        """Prepare for inputs of the shape of ``a``."""
        channels, height, width, samples = a.shape
        geometry = self.kernel, self.stride, self.padding
        assert self.work.size >= max_pooling_scratch(samples, channels, height, width, *geometry)
        lengths = (height, width), self.output.shape[1:3]
        vertical, horizontal = (
            _Axis(axis, *numbers)
            for axis, *numbers in zip((1, 2), *lengths, *geometry, strict=True)
        )
        self._axes = vertical, horizontal
        return self._axes

    def _blocks(self) -> Iterator[slice]:
        """Yield the channels taken at a time."""
        assert self._axes is not None
        vertical, horizontal = self._axes
        channels, _, _, samples = self.output.shape
        if samples:
            step = max_pooling_channels(
                samples, vertical.length, horizontal.length, self.kernel, self.stride, self.padding
            )
            for channel in range(0, channels, step):
                yield slice(channel, min(channel + step, channels))

    def _room(self, channels: slice) -> tuple[Array, Array, Array, Array, Array]:
        """Return scratch: columns' maxima, their gradient, what is left of it, a share, a mask."""
        assert self._axes is not None
        height = self._axes[0].length
        _, rows, columns, samples = self.output.shape
        count = channels.stop - channels.start
        row = count * columns * samples
        ends = [height * row, 2 * height * row, (2 * height + rows) * row]
        ends.append(ends[-1] + max(height, rows) * row)
        narrow, gradient, left, share, rest = xp.split(self.work, ends)
        shape = count, height, columns, samples
        return (
            narrow.reshape(shape),
            gradient.reshape(shape),
            left.reshape(count, rows, columns, samples),
            share,
            rest.view(bool)[: share.size],
        )


@dataclass(slots=True)
class _Axis:
    """Windows along ``axis``, of ``length`` elements."""

    axis: int
    length: int
    windows: int
    kernel: int
    stride: int
    padding: int
    _taps: list[Tap] = field(init=False)
    _is_whole: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        pairs = meetings(self.windows, self.kernel, self.length, self.stride, self.padding)
        self._taps = [pair for pair in pairs if pair[0].start < pair[0].stop]
        self._is_whole = [place == slice(0, self.windows) for place, _ in self._taps]

    def maxima(self, source: Array, target: Array) -> None:
        """Set ``target`` to the maxima of the windows of ``source``."""
        taps = self._taps
        if len(taps) > 1 and self._is_whole[0] and self._is_whole[1]:
            (_, one), (_, other), *taps = taps
            xp.maximum(self._at(source, one), self._at(source, other), out=target)
        else:
            target.fill(-xp.inf)
        for place, origin in taps:
            part = self._at(target, place)
            xp.maximum(part, self._at(source, origin), out=part)

    def give(
        self, left: Array, maxima: Array, source: Array, place: Array, room: Array, masks: Array, *, adds: bool
    ) -> None:  # fmt: skip
        """Give the gradient ``left`` to the first maximum of each window; nothing is left of it.

        It is added to ``place``, the gradient of ``source``, or sets it.
        """
        disjoint = self.kernel <= self.stride
        if not adds and not (disjoint and self._covers()):
            place.fill(0)
        last = len(self._taps) - 1
        for i, (windows, origin) in enumerate(self._taps):
            rest, target = self._at(left, windows), self._at(place, origin)
            share = rest
            if i < last:  # what the others left is the last one's
                share = target
                if adds or not disjoint:
                    share = room[: rest.size].reshape(rest.shape)
                mask = masks[: rest.size].reshape(rest.shape)
                xp.equal(self._at(source, origin), self._at(maxima, windows), out=mask)
                xp.multiply(rest, mask, out=share)
                xp.subtract(rest, share, out=rest)
            if adds or not disjoint:
                xp.add(target, share, out=target)
            elif share is rest:
                xp.copyto(target, rest)

    def _covers(self) -> bool:
        """Whether every element is in a window."""
        covered: int = sum(place.stop - place.start for place, _ in self._taps)
        return covered >= self.length

    def _at(self, array: Array, part: slice) -> Array:
        """Return ``part`` of the axis."""
        return array[:, part] if self.axis == 1 else array[:, :, part]


@dataclass(slots=True)
class AvgPool:
    """The mean of every window; padding counts as zeros.

    ``output`` is (channels, output height, output width, samples); ``work`` has at least
    ``average_pooling_scratch`` elements. A window of the whole image is global pooling.
    """

    output: Array
    kernel: Pair
    stride: Pair
    padding: Pair
    work: Array
    grad_input: Array | None = None
    adds_input: bool = False
    _taps: list[tuple[Tap, Tap]] = field(init=False, default_factory=list)
    _ones: Array | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.grad_input is not None:
            self._bind(self.grad_input)

    def forward(self, a: Array) -> Array:
        """Return the means."""
        if not self._taps:
            self._bind(a)
        scale = self.output.dtype.type(1 / (self.kernel[0] * self.kernel[1]))
        if self._ones is not None:
            channels, height, width, samples = a.shape
            flat = a.reshape(channels, height * width, samples)
            xp.matmul(self._ones, flat, out=self.output.reshape(channels, 1, samples))
        else:
            self.output.fill(0)
            for (rows, from_rows), (columns, from_columns) in self._taps:
                part = self.output[:, rows, columns]
                xp.add(part, a[:, from_rows, from_columns], out=part)
        xp.multiply(self.output, scale, out=self.output)
        return self.output

    def backward(self, gb: Array) -> Array | None:
        """Return ``ga`` if there is room for it."""
        if self.grad_input is None:
            return None
        scale = gb.dtype.type(1 / (self.kernel[0] * self.kernel[1]))
        if not self.adds_input and self._ones is None:
            self.grad_input.fill(0)
        step = average_pooling_channels(gb[0].size)
        for channel in range(0, len(gb), step):
            gradient = gb[channel : channel + step]
            share = self.work[: gradient.size].reshape(gradient.shape)
            xp.multiply(gradient, scale, out=share)
            place = self.grad_input[channel : channel + step]
            if self._ones is None:
                for (rows, to_rows), (columns, to_columns) in self._taps:
                    part = place[:, to_rows, to_columns]
                    xp.add(part, share[:, rows, columns], out=part)
            elif self.adds_input:
                xp.add(place, share, out=place)
            else:
                xp.copyto(place, share)
        return self.grad_input

    def _bind(self, a: Array) -> None:
        """Prepare for inputs of the shape of ``a``."""
        channels, height, width, samples = a.shape
        geometry = self.kernel, self.stride, self.padding
        assert self.work.size >= average_pooling_scratch(
            samples, channels, height, width, *geometry
        )
        numbers = zip(self.output.shape[1:3], self.kernel, (height, width), self.stride, self.padding, strict=True)  # fmt: skip
        vertical, horizontal = (meetings(*each) for each in numbers)
        self._taps = [(row, column) for row in vertical for column in horizontal]
        if self.kernel == (height, width) and self.padding == (0, 0):
            self._ones = xp.ones((1, height * width), a.dtype)
