"""Damaged files met by the trainer: one message that names the file and where, and status 2."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.conftest import Finished
from tests.exec.test_train import assert_one_error
from tests.exec.test_train import train as run_training

DIGITS = {
    "X": np.zeros((32, 32, 3, 40), np.uint8),
    "y": np.arange(40, dtype=np.uint8)[:, None] % 10 + 1,
}


def train(data: str, folder: Path, *arguments: str) -> Finished:
    return run_training("--data", data, "--data-dir", folder, *arguments)


def write_svhn(folder: Path, **test_arrays: object) -> None:
    savemat(folder / "train_32x32.mat", DIGITS, do_compression=True)
    savemat(folder / "test_32x32.mat", DIGITS | test_arrays, do_compression=True)


def write_mnist(folder: Path, half: str, pixels: np.ndarray, labels: bytes) -> None:
    header = b"\0\0\x08" + bytes([pixels.ndim]) + struct.pack(f">{pixels.ndim}I", *pixels.shape)
    (folder / f"{half}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    header = b"\0\0\x08\x01" + struct.pack(">I", len(labels))
    (folder / f"{half}-labels-idx1-ubyte").write_bytes(header + labels)


def truncate(folder: Path) -> None:
    write_svhn(folder)
    path = folder / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-20])


def break_a_type(folder: Path) -> None:
    write_svhn(folder)
    savemat(folder / "test_32x32.mat", DIGITS)
    content = bytearray((folder / "test_32x32.mat").read_bytes())
    content[184] = 99  # The type of the pixels, at which SciPy's reader alone ends the process.
    (folder / "test_32x32.mat").write_bytes(content)


def mnist_of(test_pixels: np.ndarray, test_labels: bytes):
    def write(folder: Path) -> None:
        write_mnist(folder, "train", np.zeros((4, 28, 28), np.uint8), bytes(4))
        write_mnist(folder, "t10k", test_pixels, test_labels)

    return write


BAD = {
    "svhn label": ("svhn", lambda f: write_svhn(f, y=DIGITS["y"] + 1), "test_32x32.mat: y(10): label must be 1 .. 10, where 10 is the digit 0, got 11"),
    "svhn size": ("svhn", lambda f: write_svhn(f, X=np.zeros((28, 28, 3, 40), np.uint8)), "test_32x32.mat: byte 128: X must be 32 x 32 x 3 x n of uint8 with n > 0, got 28 x 28 x 3 x 40 of uint8"),
    "svhn channels": ("svhn", lambda f: write_svhn(f, X=np.zeros((32, 32, 1, 40), np.uint8)), "got 32 x 32 x 1 x 40 of uint8"),
    "svhn cut": ("svhn", truncate, "truncated, expected 20 more bytes"),
    "svhn type": ("svhn", break_a_type, "test_32x32.mat: byte 128: expected numbers of a known type, got type 99"),
    "svhn absent": ("svhn", lambda f: None, "svhn needs train_32x32.mat in"),
    "mnist label": ("mnist", mnist_of(np.zeros((2, 28, 28), np.uint8), b"\3\x0a"), "t10k-labels-idx1-ubyte: byte 9: label must be 0 .. 9, got 10"),
    "mnist size": ("mnist", mnist_of(np.zeros((2, 16, 49), np.uint8), bytes(2)), "t10k-images-idx3-ubyte: byte 8: expected images of 28 x 28 pixels"),
    "mnist channels": ("mnist", mnist_of(np.zeros((2, 3, 28, 28), np.uint8), bytes(2)), "t10k-images-idx3-ubyte: byte 0: expected IDX magic 00 00 08 03"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_message_and_status_2(tmp_path: Path, name: str) -> None:
    data, write, message = BAD[name]
    write(tmp_path)
    ended = train(data, tmp_path, "--net", "3072-4-10")
    assert_one_error(ended, message)
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1


def test_more_samples_than_the_file_has_are_one_message_and_status_2(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    ended = train("svhn", tmp_path, "--net", "3072-4-10", "--num-train", "41")
    assert_one_error(ended, "num_train must be at most the 40 training samples of svhn, got 41")


def test_the_log_says_that_the_first_samples_train(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    ended = train(
        "svhn", tmp_path, "--net", "3072-4-10", "--num-train", "36", "--num-test", "7",
        "--epochs", "1",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "36 training, 7 test samples" in ended.stdout
    assert "trains on the first 36 of 40; tests on the first 7 of 40" in ended.stdout
