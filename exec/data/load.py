"""Load a dataset by its name on the command line: ``drawn``, ``letters``, ``mnist`` or a CSV file.

``drawn`` needs nothing, and is the default. The published sets come from a folder of the user's, or
are downloaded once into a cache.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from exec.data import letters, mnist
from exec.data.csv_dataset import load_csv
from exec.data.dataset import Dataset
from exec.data.download import PublishedFile
from exec.data.drawn import ALPHABET, draw_letters
from exec.data.locate import locate
from exec.data.reading import sha256_of
from exec.errors import DataError, UsageError, unknown_name

DATASETS = ("drawn", "letters", "mnist")

_TRAIN_STREAM, _TEST_STREAM = 0, 1


def log_to_stderr(message: str) -> None:
    """Print one line of the log."""
    print(message, file=sys.stderr, flush=True)


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    test_file: Path | None = None,
    fold: int = 0,
    seed: int = 0,
    num_train: int = 20_000,
    num_test: int = 4_000,
    log: Callable[[str], None] = log_to_stderr,
) -> Dataset:
    """Load the dataset ``name``, one of DATASETS or the path of a CSV file.

    ``test_file`` belongs to a CSV file, ``fold`` to letters (it tests, the rest train), ``seed``,
    ``num_train`` and ``num_test`` to drawn. ``log`` gets a line for each download.

    Raises:
        UsageError: the name is unknown, or an option cannot work.
        DataError: a file is absent, damaged or of the wrong shape.
    """
    is_csv = name.lower().endswith(".csv")
    if not is_csv and name not in DATASETS:
        raise UsageError(unknown_name("data", name, (*DATASETS, "PATH.csv")))
    if test_file is not None and not is_csv:
        raise UsageError(f"test_file must go with a CSV file, got data {name!r}")
    if not 0 <= fold < letters.NUM_FOLDS:
        raise UsageError(f"fold must be 0 .. {letters.NUM_FOLDS - 1}, got {fold}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    for option, count in (("num_train", num_train), ("num_test", num_test)):
        if count <= 0:
            raise UsageError(f"{option} must be positive, got {count}")
    if is_csv:
        test_path = None if test_file is None else _csv_path(test_file, data_dir)
        return load_csv(_csv_path(Path(name), data_dir), test_path)
    if name == "letters":
        return _load_letters(data_dir, fold, log)
    if name == "mnist":
        return _load_mnist(data_dir, log)
    return _load_drawn(seed, num_train, num_test)


def _load_drawn(seed: int, num_train: int, num_test: int) -> Dataset:
    train_images, train_labels = draw_letters(num_train, seed, _TRAIN_STREAM)
    test_images, test_labels = draw_letters(num_test, seed, _TEST_STREAM)
    return Dataset(
        name="drawn",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=len(ALPHABET),
        source=f"letters drawn from seed {seed}",
    )


def _load_letters(data_dir: Path | None, fold: int, log: Callable[[str], None]) -> Dataset:
    path = locate(letters.LETTERS_FILE, "letters", data_dir, log)
    rows = letters.read_letters(path)
    is_test = rows.folds == fold
    if is_test.all() or not is_test.any():
        raise DataError(
            f"{path}: fold {fold} must have some of the {len(is_test)} rows, "
            f"got {np.count_nonzero(is_test)}"
        )
    return Dataset(
        name="letters",
        train_images=rows.images[~is_test].astype(np.float32),
        train_labels=rows.labels[~is_test],
        test_images=rows.images[is_test].astype(np.float32),
        test_labels=rows.labels[is_test],
        num_classes=letters.NUM_CLASSES,
        source=f"{_identity(letters.LETTERS_FILE, path)}; fold {fold} tests",
    )


def _load_mnist(data_dir: Path | None, log: Callable[[str], None]) -> Dataset:
    paths = [locate(file, "mnist", data_dir, log) for file in mnist.MNIST_FILES]
    train_images, train_labels = mnist.read_half(paths[0], paths[1])
    test_images, test_labels = mnist.read_half(paths[2], paths[3])
    if train_images.shape[1] != test_images.shape[1]:
        raise DataError(
            f"{paths[2]}: byte 8: expected images of {train_images.shape[1]} pixels as in "
            f"{paths[0]}, got {test_images.shape[1]}"
        )
    return Dataset(
        name="mnist",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=mnist.NUM_CLASSES,
        source="; ".join(map(_identity, mnist.MNIST_FILES, paths)),
    )


def _identity(file: PublishedFile, path: Path) -> str:
    sha256 = sha256_of(path)
    kind = "official" if file.is_official(sha256) else "not the official file"
    return f"{path}, SHA-256 {sha256[:12]} ({kind})"


def _csv_path(path: Path, data_dir: Path | None) -> Path:
    """Return the path, taken from ``data_dir`` if it is not there as it stands."""
    return path if data_dir is None or os.path.lexists(path) else data_dir / path
