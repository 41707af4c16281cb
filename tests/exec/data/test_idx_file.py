"""IDX files and the halves of MNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from exec.data.idx import read_idx
from exec.data.mnist import read_half
from exec.errors import DataError


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.arange(24).reshape(2, 3, 4) * 11
LABELS = np.array([3, 9])


def store(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    assert np.array_equal(read_idx(store(tmp_path / name, idx(IMAGES)), 3), IMAGES)


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "byte 0: truncated, expected 4 more bytes"),
        (b"\0\0\x08", "byte 3: truncated, expected 1 more bytes"),
        (idx(LABELS), "byte 0: expected IDX magic 00 00 08 03 .*got 00 00 08 01"),
        (b"\0\0\x0d\x03" + bytes(12), "byte 0: expected IDX magic"),
        (idx(IMAGES)[:10], "byte 10: truncated, expected 6 more bytes"),
        (idx(IMAGES)[:-1], "truncated|header promises"),
        (idx(IMAGES) + b"x", "byte 40: expected the end of the file, got more bytes"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2, 0, 4), "byte 8: dimension must be positive"),
        (
            b"\0\0\x08\x03" + b"\xff" * 12,
            "byte 4: header promises 4294967295 x 4294967295 x 4294967295 bytes, more than",
        ),
    ],
)
def test_damage_is_named_by_its_byte(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = store(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as raised:
        read_idx(path, 3)
    assert str(path) in str(raised.value)


def test_truncated_content_is_named_by_the_byte_where_it_ends(tmp_path: Path) -> None:
    path = store(tmp_path / "images.gz", idx(IMAGES)[:-1])
    with pytest.raises(DataError, match="byte 39: truncated, expected 1 more bytes"):
        read_idx(path, 3)


def test_truncated_gzip_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES))[:-5])
    with pytest.raises(DataError, match="truncated gzip"):
        read_idx(path, 3)


def test_a_half_has_one_channel(tmp_path: Path) -> None:
    half = read_half(
        store(tmp_path / "images", idx(IMAGES)), store(tmp_path / "labels.gz", idx(LABELS))
    )
    assert half.pixels.dtype == np.uint8
    assert np.array_equal(half.pixels, IMAGES.reshape(2, 1, 3, 4))
    assert half.labels.tolist() == [3, 9]


def test_images_and_labels_must_be_equally_many(tmp_path: Path) -> None:
    images = store(tmp_path / "images", idx(IMAGES))
    labels = store(tmp_path / "labels", idx(np.array([1, 2, 3])))
    with pytest.raises(DataError, match=r"images: byte 4: expected 3 images.*got 2"):
        read_half(images, labels)


def test_a_label_over_nine_is_named_by_its_byte(tmp_path: Path) -> None:
    images = store(tmp_path / "images", idx(IMAGES))
    labels = store(tmp_path / "labels", idx(np.array([9, 10])))
    with pytest.raises(DataError, match=r"byte 9: label must be 0 \.\. 9, got 10"):
        read_half(images, labels)
