"""CSV files of labelled images: no header, the label first, then one column a pixel.

Numbers may be written in any decimal form, so that what ``numpy.savetxt`` writes is read.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exec.data.reading import read_all
from exec.errors import DataError

MAX_CLASSES = 10_000  # A larger label is a mistaken column rather than a class.
MAX_PIXEL = 255.0

_LIMIT_NBYTES = 4 << 30
_NUMBER = re.compile(r"[ \t]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t]*", re.ASCII)
_NOT_FINITE = re.compile(r"[ \t]*[+-]?(nan|inf|infinity)[ \t]*", re.ASCII | re.IGNORECASE)


def read_csv(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read a file's pixels, as written, and its labels."""
    return parse_csv(read_all(path, _LIMIT_NBYTES), path)


def parse_csv(content: bytes, path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Parse a file's bytes; ``path`` is for messages.

    Raises:
        DataError: a row is malformed; the message names its line and column.
    """
    if not content.strip():
        raise DataError(f"{path}: empty file")
    lines = content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    table = _parse_soundly(lines)
    if table is None:
        raise DataError(f"{path}: {_first_fault(lines)}")
    return table[:, 1:], table[:, 0].astype(np.int64)


def _parse_soundly(lines: list[bytes]) -> NDArray[np.float64] | None:
    """Return the table, or None if there is any fault in it."""
    if not all(lines) or not all(line.isascii() for line in lines):
        return None
    try:
        table = np.loadtxt(
            [line.decode("ascii") for line in lines], np.float64, comments=None, delimiter=",",
            ndmin=2,
        )  # fmt: skip
    except ValueError:
        return None
    labels, pixels = table[:, 0], table[:, 1:]
    is_sound = (
        table.shape[0] == len(lines)
        and pixels.shape[1] > 0
        # Comparisons with NaN are false, and so reject it.
        and bool(((labels >= 0) & (labels < MAX_CLASSES)).all())
        and bool((labels == np.floor(labels)).all())
        and bool(pixels.min() >= 0 and pixels.max() <= MAX_PIXEL)
    )
    return table if is_sound else None


def _first_fault(lines: list[bytes]) -> str:
    count = lines[0].count(b",") + 1
    if count < 2:
        return "line 1: expected a label, then pixels, separated by commas, got 1 column"
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            column = next(i for i, byte in enumerate(line) if byte > 127)
            return f"line {number}: expected ASCII, got byte 0x{line[column]:02x} at {column}"
        fields = line.decode("ascii").split(",")
        if len(fields) != count:
            return f"line {number}: expected {count} columns as in line 1, got {len(fields)}"
        for column, field in enumerate(fields, 1):
            fault = _fault_of(field, is_label=column == 1)
            if fault:
                return f"line {number}, column {column}: {fault}, got {field!r}"
    raise AssertionError("parse_csv rejected rows in which _first_fault finds no fault")


def _fault_of(field: str, *, is_label: bool) -> str:
    if not (_NUMBER.fullmatch(field) or _NOT_FINITE.fullmatch(field)):
        return "expected a number"
    value = float(field)
    if is_label:
        if 0 <= value < MAX_CLASSES and value.is_integer():
            return ""
        return f"label must be a whole number 0 .. {MAX_CLASSES - 1}"
    return "" if 0 <= value <= MAX_PIXEL else f"pixel must be finite and 0 .. {MAX_PIXEL:g}"
