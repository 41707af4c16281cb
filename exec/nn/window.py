"""Where the windows of convolutions and pooling meet an axis."""


def meeting(
    start: int, stop: int, tap: int, length: int, stride: int, padding: int
) -> tuple[slice, slice]:
    """Return which windows meet the axis with their element ``tap``, and at which elements.

    Windows ``start`` to ``stop`` are asked about, and counted from ``start``.
    """
    first = max(start, -((tap - padding) // stride))
    end = max(first, min(stop, (length - 1 + padding - tap) // stride + 1))
    element = first * stride - padding + tap
    last = element + max(0, end - first - 1) * stride
    return slice(first - start, end - start), slice(element, last + (end > first), stride)


def meetings(
    windows: int, kernel: int, length: int, stride: int, padding: int
) -> list[tuple[slice, slice]]:
    """Return, for every element of the kernel, the windows that meet the axis, and at which elements."""
    return [meeting(0, windows, tap, length, stride, padding) for tap in range(kernel)]
