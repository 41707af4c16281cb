"""The MATLAB files of house numbers; SciPy writes those read here, in the official files' format."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from exec.data.load import load_dataset
from exec.data.svhn import SVHN_FILES, read_half
from exec.errors import DataError

GENERATOR = np.random.Generator(np.random.PCG64(3))
X = GENERATOR.integers(0, 256, (32, 32, 3, 12), np.uint8)  # Row, column, channel, sample.
Y = np.array([[10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1]], np.uint8).T


def stored(path: Path, is_compressed: bool = True, **arrays: object) -> Path:
    savemat(path, {"X": X, "y": Y} | arrays, do_compression=is_compressed)
    return path


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("label_type", [np.uint8, np.int64, np.float64])
def test_digits_are_read_by_sample_channel_row_and_column(
    tmp_path: Path, is_compressed: bool, label_type: type
) -> None:
    half = read_half(stored(tmp_path / "a.mat", is_compressed, y=Y.astype(label_type)))
    assert half.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert half.pixels.shape == (12, 3, 32, 32)
    for sample, channel, row, column in [(0, 0, 0, 0), (5, 2, 31, 1), (11, 1, 4, 30)]:
        assert half.pixels[sample, channel, row, column] == X[row, column, channel, sample]


def test_a_file_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    """Old workstations wrote their own byte order; SciPy writes only this machine's."""
    parts = [b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI"]
    for name, array in ((b"X", X), (b"y", Y)):
        dims = struct.pack(f">{array.ndim}i", *array.shape)
        content = array.tobytes("F")
        parts_of_array = (
            struct.pack(">4I", 6, 8, 9, 0),
            struct.pack(">2I", 5, len(dims)) + dims,
            struct.pack(">2H", 1, 1) + name.ljust(4, b"\0"),
            struct.pack(">2I", 2, len(content)) + content + bytes(-len(content) % 8),
        )
        parts += [struct.pack(">2I", 14, sum(map(len, parts_of_array))), *parts_of_array]
    (tmp_path / "a.mat").write_bytes(b"".join(parts))
    half = read_half(tmp_path / "a.mat")
    assert half.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.array_equal(half.pixels, X.transpose(3, 2, 0, 1))


WRONG = {
    "other size": ({"X": X[:28, :28]}, r"byte 128: X must be 32 x 32 x 3 x n .*got 28 x 28 x 3 x 12"),
    "grey": ({"X": X[:, :, :1]}, "X must be 32 x 32 x 3 x n .*got 32 x 32 x 1 x 12"),
    "one image": ({"X": X[..., 0]}, "X must be 32 x 32 x 3 x n .*got 32 x 32 x 3 of uint8"),
    "no image": ({"X": X[..., :0]}, "X must be .*with n > 0, got 32 x 32 x 3 x 0"),
    "floats": ({"X": X / 255}, "X must be .*of uint8 .*got 32 x 32 x 3 x 12 of float64"),
    "fewer labels": ({"y": Y[:11]}, "y must be 12 x 1, .*got 11 x 1 of uint8"),
    "a row of labels": ({"y": Y.T}, "y must be 12 x 1, .*got 1 x 12"),
    "label 0": ({"y": Y % 10}, r"y\(1\): label must be 1 .. 10, .*got 0"),
    "label 11": ({"y": Y + (Y == 9)  * 2}, r"y\(10\): label must be 1 .. 10, .*got 11"),
    "label -1": ({"y": -Y.astype(np.int16)}, r"y\(1\): label must be .*got -10"),
    "label 1.5": ({"y": Y / 2}, r"y\(2\): label must be .*got 0.5"),
    "no number": ({"y": np.where(Y == 7, np.nan, Y)}, r"y\(8\): label must be .*got nan"),
    "third variable": ({"z": Y}, "expected the variables X, y, got X, y, z"),
    "text": ({"y": "digits"}, "expected an array of real numbers, got class 4"),
    "struct": ({"y": {"a": 1}}, "expected an array of real numbers, got class 2"),
    "cells": ({"y": np.array([1, "a"], object)}, "expected an array of real numbers, got class 1"),
    "complex": ({"y": Y * 1j}, "expected an array of real numbers, got complex ones"),
}  # fmt: skip


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_file_of_digits_is_said(tmp_path: Path, is_compressed: bool, name: str) -> None:
    arrays, message = WRONG[name]
    path = stored(tmp_path / "a.mat", is_compressed, **arrays)
    with pytest.raises(DataError, match=message) as raised:
        read_half(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_file_without_labels_is_said_to_be(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"X": X})
    with pytest.raises(DataError, match=r"expected the variables X, y, got X$"):
        read_half(tmp_path / "a.mat")


def patched(content: bytes, start: int, *words: int) -> bytes:
    return (
        content[:start] + struct.pack(f"<{len(words)}I", *words) + content[start + 4 * len(words) :]
    )


# In a plain file X begins at byte 128: its tag, flags at 136, dimensions at 152, its name at 176 and
# the tag of its 36,864 pixels at 184.
DAMAGED = {
    "empty": (lambda c: b"", "byte 0: expected the 128 bytes of a MATLAB version 5 header"),
    "other kind": (lambda c: b"\x1f\x8b" + c, "byte 0: expected the 128 bytes of a MATLAB"),
    "version 4": (lambda c: bytes(20) + c[20:], "byte 0: expected the 128 bytes of a MATLAB"),
    "version 7.3": (lambda c: c.replace(b"MATLAB 5.0", b"MATLAB 7.3"), r"got version 7.3 \(HDF5\); save it"),
    "HDF5": (lambda c: b"\x89HDF\r\n\x1a\n" + c, r"got version 7.3 \(HDF5\); save it"),
    "no variable": (lambda c: c[:128], "expected the variables X, y, got none"),
    "cut in a tag": (lambda c: c[:133], "byte 128: truncated, expected 3 more bytes"),
    "cut in X": (lambda c: c[:1128], "byte 128: truncated, expected 35928 more bytes"),
    "cut in y": (lambda c: c[:-1], "byte 37056: truncated, expected 1 more bytes"),
    "no array": (lambda c: patched(c, 128, 9), "byte 128: expected an array .*got type 9"),
    "no flags": (lambda c: patched(c, 136, 5), "expected an array's flags"),
    "negative": (lambda c: patched(c, 160, 2**32 - 1), "dimensions must not be negative"),
    "many dimensions": (lambda c: patched(c, 156, 200), r"expected 2 .. 32 dimensions, got 200"),
    "name": (lambda c: patched(c, 180, 0x2E2E), "expected a variable's name"),
    "long tag": (lambda c: patched(c, 176, 5 << 16 | 1), "expected up to 4 bytes in a tag, got 5"),
    "type": (lambda c: patched(c, 184, 99), "expected numbers of a known type, got type 99"),
    "fewer pixels": (lambda c: patched(c, 188, 36000), "expected 32 x 32 x 3 x 12 numbers .*got 36000 bytes"),
    "more images": (lambda c: patched(c, 172, 2**30), "expected 32 x 32 x 3 x 1073741824 numbers of 1"),
    "twice X": (lambda c: c[:37056] + c[128:37056] + c[37056:], "byte 37056: a second variable X"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_by_the_byte_where_the_variable_begins(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGED[name]
    path = stored(tmp_path / "a.mat", is_compressed=False)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as raised:
        read_half(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_damaged_compressed_pixels_are_an_error(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.mat")
    content = bytearray(path.read_bytes())
    content[20_000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat: damaged: .*decompressing"):
        read_half(path)


def test_a_promise_that_the_file_cannot_keep_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.mat", X=np.zeros_like(X))
    inflating = bytes(
        [0x78, 0x01, 0x01, 8, 0, 0xF7, 0xFF]  # A stored block of 8 bytes: an array of 2^31 bytes.
    ) + struct.pack("<2I", 14, 1 << 31)  # fmt: skip
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<2I", 15, len(inflating)) + inflating)
    with pytest.raises(DataError, match="promises 2147483648 bytes, more than the file can hold"):
        read_half(path)


def test_a_directory_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file, found a directory"):
        read_half(tmp_path)


def test_both_files_make_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "svhn").mkdir()
    stored(tmp_path / "svhn" / "train_32x32.mat")
    stored(tmp_path / "svhn" / "test_32x32.mat", X=X[..., :5], y=Y[:5])
    data = load_dataset("svhn", data_dir=tmp_path)
    assert data.train_images.shape == (12, 3072)
    assert data.test_images.shape == (5, 3072)
    assert data.image_shape == (3, 32, 32)
    assert data.num_classes == 10
    expected = (X.transpose(3, 2, 0, 1).reshape(12, 3072) / 255).astype(np.float32)
    assert np.array_equal(data.train_images, expected)
    assert np.array_equal(data.test_images, expected[:5])
    assert data.source.count("(not the official file)") == 2
    assert "MD5" in data.source


def test_the_published_files_are_known_by_their_md5() -> None:
    train, test = SVHN_FILES
    assert train.is_official("e26dedcc434d2e4c54c9b2d4a06d8373")
    assert test.is_official("eb5a983be6a315427106f1b164d9cef3")
    assert not train.is_official(test.digest)
    assert train.names == ("train_32x32.mat",)
