"""The handwritten letters of R. Kassel, in the file prepared by B. Taskar.

A row is tab separated: id, letter, next_id, word_id, position, fold, then 128 pixels of 0 or 1 (16
rows of 8), then one more tab. The ten folds are for cross validation: one tests, the rest train.

Source: B. Taskar, C. Guestrin and D. Koller, "Max-margin Markov networks", NIPS 2003.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exec.data.download import PublishedFile
from exec.data.reading import read_all
from exec.errors import DataError

NUM_ROWS = 52_152
NUM_FOLDS = 10
NUM_CLASSES = 26
ROWS, COLUMNS = 16, 8
NUM_PIXELS = ROWS * COLUMNS

LETTERS_FILE = PublishedFile(
    name="letter.data.gz",
    url="https://ai.stanford.edu/~btaskar/ocr/letter.data.gz",
    nbytes=1_329_012,
    digest="4ef9522ffeaa68cad889ad8d02ad3fca411fe6a656546c236a183866157b3b34",
    digest_inflated="535363d0b7bc34246b1f8731719540f526b6807b12dda5d430d011d160bc7882",
)

_LIMIT_NBYTES = 2 * 14_557_249  # Twice the official file.
_HEAD = re.compile(rb"\d+\t([a-z])\t(?:-1|\d+)\t\d+\t\d+\t(\d)\t")
_FIELDS = ("id", "letter", "next_id", "word_id", "position", "fold")
_EXPECTED = {
    "id": (re.compile(r"\d+", re.ASCII), "a number"),
    "letter": (re.compile("[a-z]"), "a letter a-z"),
    "next_id": (re.compile(r"-1|\d+", re.ASCII), "a number or -1"),
    "word_id": (re.compile(r"\d+", re.ASCII), "a number"),
    "position": (re.compile(r"\d+", re.ASCII), "a number"),
    "fold": (re.compile("[0-9]"), "a digit 0-9"),
}
_PIXEL = (re.compile("[01]"), "0 or 1")


@dataclass(frozen=True, slots=True)
class LetterRows:
    """The columns of the file that training needs."""

    images: NDArray[np.uint8]  # (num_rows, 128), 0 or 1
    labels: NDArray[np.int64]  # (num_rows,), a = 0 .. z = 25
    folds: NDArray[np.int64]  # (num_rows,), 0 .. 9


def read_letters(path: Path, num_rows: int = NUM_ROWS) -> LetterRows:
    """Read the file, gzip or not, which must have ``num_rows`` rows."""
    rows = parse_letters(read_all(path, _LIMIT_NBYTES), path)
    if len(rows.labels) != num_rows:
        raise DataError(f"{path}: expected {num_rows} rows, got {len(rows.labels)}")
    return rows


def parse_letters(content: bytes, path: Path) -> LetterRows:
    """Parse the file's bytes; ``path`` is for messages.

    Raises:
        DataError: a row is malformed; the message names its line and column.
    """
    lines = content.removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise DataError(f"{path}: empty file")
    # The pixels are the last 256 bytes of a row, whatever the width of the numbers before them.
    heads = [_HEAD.fullmatch(line[: -2 * NUM_PIXELS]) for line in lines]
    tails = b"".join([line[-2 * NUM_PIXELS :] for line in lines])
    if len(tails) == len(lines) * 2 * NUM_PIXELS:
        pairs = np.frombuffer(tails, np.uint8).reshape(len(lines), NUM_PIXELS, 2)
        images = pairs[:, :, 0] - np.uint8(ord("0"))  # Anything below "0" wraps round to > 1.
        is_sound = bool((images <= 1).all() and (pairs[:, :, 1] == ord("\t")).all())
        found = b"".join([head[1] + head[2] for head in heads if head])
        if is_sound and len(found) == 2 * len(lines):
            columns = np.frombuffer(found, np.uint8).reshape(len(lines), 2).astype(np.int64)
            return LetterRows(images, columns[:, 0] - ord("a"), columns[:, 1] - ord("0"))
    raise DataError(f"{path}: {_first_fault(lines)}")


def _first_fault(lines: list[bytes]) -> str:
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            column = next(i for i, byte in enumerate(line) if byte > 127)
            return f"line {number}: expected ASCII, got byte 0x{line[column]:02x} at {column}"
        fields = line.decode("ascii").split("\t")
        count = len(_FIELDS) + NUM_PIXELS
        if len(fields) != count + 1 or fields[-1] != "":
            found = len(fields) - (fields[-1] == "")
            ending = "" if fields[-1] == "" else " and no tab at the end"
            return (
                f"line {number}: expected {count} columns, each with a tab after it, "
                f"got {found}{ending}"
            )
        for column, field in enumerate(fields[:-1]):
            name = _FIELDS[column] if column < len(_FIELDS) else f"pixel {column - len(_FIELDS)}"
            pattern, expected = _EXPECTED.get(name, _PIXEL)
            if not pattern.fullmatch(field):
                return (
                    f"line {number}, column {column + 1}: {name} must be {expected}, got {field!r}"
                )
    raise AssertionError("parse_letters rejected rows in which _first_fault finds no fault")
