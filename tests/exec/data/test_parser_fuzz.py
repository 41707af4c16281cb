"""A valid file with random damage either still parses or raises DataError, and nothing else."""

import gzip
import io
import string
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from exec.data.idx import read_idx
from exec.data.labelled_csv import parse_csv
from exec.data.letters import parse_letters, read_letters
from exec.data.svhn import read_half
from exec.errors import DataError

LETTERS = "".join(
    "\t".join([str(n + 1), string.ascii_lowercase[n], "-1", "5", "0", str(n), *"01" * 64]) + "\t\n"
    for n in range(3)
).encode()
CSV = b"0,0,1,0.5\r\n3,1,1e0,0\r\n12,0,0,1\r\n"
IDX = b"\0\0\x08\x03" + struct.pack(">3I", 3, 2, 2) + bytes(range(12))


def mat(*, is_compressed: bool) -> bytes:
    """Return a file of two house numbers."""
    content = io.BytesIO()
    pixels = np.arange(32 * 32 * 3 * 2).astype(np.uint8).reshape(32, 32, 3, 2)
    arrays = {"X": pixels, "y": np.array([[10], [3]], np.uint8)}
    savemat(content, arrays, do_compression=is_compressed)
    return content.getvalue()


MAT, COMPRESSED_MAT = mat(is_compressed=False), mat(is_compressed=True)
PIXELS, LABELS = 192, len(MAT) - 56  # Where the pixels begin, and after them the variable y.
LIKELY_IN_MAT = b"\0\1\2\3\4\5\6\7\x08\x09\x0e\x0f\x10\x20\x80\xff"

fuzz = settings(
    max_examples=300,
    deadline=None,
    # The one file written is overwritten by each example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def damaged(valid: bytes, likely: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of up to four replacements of a few bytes by a few others."""
    patch = st.one_of(
        st.binary(max_size=4), st.lists(st.sampled_from(likely), max_size=6).map(bytes)
    )
    edits = st.lists(
        st.tuples(st.integers(0, len(valid)), st.integers(0, 6), patch), min_size=1, max_size=4
    )

    def apply(chosen: list[tuple[int, int, bytes]]) -> bytes:
        content = valid
        for start, removed, inserted in chosen:
            content = content[:start] + inserted + content[start + removed :]
        return content

    return st.one_of(edits.map(apply), st.integers(0, len(valid)).map(lambda end: valid[:end]))


@contextmanager
def only_a_data_error(path: Path) -> Iterator[None]:
    """Let a DataError about ``path`` pass, and nothing else."""
    try:
        yield
    except DataError as error:
        if not str(error).startswith(f"{path}: "):
            raise


@fuzz
@given(content=damaged(LETTERS, b"01\t\nab9-\r"))
def test_letters_parse_or_raise_data_error(content: bytes) -> None:
    with only_a_data_error(Path("letter.data")):
        rows = parse_letters(content, Path("letter.data"))
        assert rows.images.shape == (len(rows.labels), 128)
        assert rows.images.max() <= 1
        assert 0 <= rows.labels.min() <= rows.labels.max() <= 25
        assert 0 <= rows.folds.min() <= rows.folds.max() <= 9


@fuzz
@given(content=damaged(CSV, b"0123456789.,+-eE_ \t\r\n\"'#\x0b\x0c\x1cnaif"))
def test_csv_parses_or_raises_data_error(content: bytes) -> None:
    with only_a_data_error(Path("train.csv")):
        pixels, labels = parse_csv(content, Path("train.csv"))
        assert len(pixels) == len(labels) > 0
        assert 0 <= pixels.min() <= pixels.max() <= 255
        assert labels.min() >= 0


@fuzz
@given(content=damaged(IDX, b"\0\1\2\3\x08\xff"))
def test_idx_parses_or_raises_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with only_a_data_error(path):
        assert read_idx(path, 3).ndim == 3


@fuzz
@given(content=damaged(gzip.compress(IDX, mtime=0), b"\x1f\x8b\0\x08\xff"))
def test_gzipped_idx_parses_or_raises_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with only_a_data_error(path):
        assert read_idx(path, 3).ndim == 3


@fuzz
@given(content=damaged(gzip.compress(LETTERS, mtime=0), b"\x1f\x8b\0\x08\xff"))
def test_gzipped_letters_parse_or_raise_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.data.gz"
    path.write_bytes(content)
    with only_a_data_error(path):
        assert len(read_letters(path, num_rows=3).labels) == 3


def reads_house_numbers_or_raises_data_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with only_a_data_error(path):
        half = read_half(path)
        assert half.pixels.dtype == np.uint8
        assert half.pixels.shape == (len(half.labels), 3, 32, 32)
        assert len(half.labels) > 0
        assert 0 <= half.labels.min() <= half.labels.max() <= 9


@fuzz
@given(head=damaged(MAT[:PIXELS], LIKELY_IN_MAT))
def test_mat_images_parse_or_raise_data_error(tmp_path: Path, head: bytes) -> None:
    reads_house_numbers_or_raises_data_error(tmp_path / "train.mat", head + MAT[PIXELS:])


@fuzz
@given(tail=damaged(MAT[LABELS:], LIKELY_IN_MAT))
def test_mat_labels_parse_or_raise_data_error(tmp_path: Path, tail: bytes) -> None:
    reads_house_numbers_or_raises_data_error(tmp_path / "train.mat", MAT[:LABELS] + tail)


@fuzz
@given(head=damaged(MAT[128:PIXELS], LIKELY_IN_MAT))
def test_compressed_mat_headers_parse_or_raise_data_error(tmp_path: Path, head: bytes) -> None:
    images = zlib.compress(head + MAT[PIXELS:LABELS])
    content = MAT[:128] + struct.pack("<II", 15, len(images)) + images + MAT[LABELS:]
    reads_house_numbers_or_raises_data_error(tmp_path / "train.mat", content)


@fuzz
@given(content=damaged(COMPRESSED_MAT, LIKELY_IN_MAT))
def test_compressed_mat_parses_or_raises_data_error(tmp_path: Path, content: bytes) -> None:
    reads_house_numbers_or_raises_data_error(tmp_path / "train.mat", content)


@pytest.mark.parametrize("valid", [MAT, COMPRESSED_MAT], ids=["plain", "compressed"])
def test_the_undamaged_mat_parses(tmp_path: Path, valid: bytes) -> None:
    (tmp_path / "train.mat").write_bytes(valid)
    assert read_half(tmp_path / "train.mat").labels.tolist() == [0, 3]


@pytest.mark.parametrize("valid", [LETTERS, gzip.compress(LETTERS, mtime=0)], ids=["plain", "gzip"])
def test_the_undamaged_file_parses(tmp_path: Path, valid: bytes) -> None:
    path = tmp_path / ("letter.data.gz" if valid[0] == 0x1F else "letter.data")
    path.write_bytes(valid)
    assert read_letters(path, num_rows=3).labels.tolist() == [0, 1, 2]
