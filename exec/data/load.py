"""Load a dataset by its name on the command line, or from a CSV file.

``drawn`` needs nothing, and is the default. The published sets come from a folder of the user's, or
are downloaded once into a cache.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from exec.data import letters, mnist, svhn
from exec.data.csv_dataset import load_csv
from exec.data.dataset import Dataset
from exec.data.download import PublishedFile
from exec.data.drawn import ALPHABET, COLUMNS, ROWS, draw_letters
from exec.data.images import ByteImages, image_dataset
from exec.data.limits import Limits
from exec.data.locate import locate
from exec.data.reading import digest_of
from exec.errors import DataError, UsageError, unknown_name

DATASETS = ("drawn", "letters", "mnist", "svhn")

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
    num_train: int | None = None,
    num_test: int | None = None,
    log: Callable[[str], None] = log_to_stderr,
) -> Dataset:
    """Load the dataset ``name``, one of DATASETS or the path of a CSV file.

    ``test_file`` belongs to a CSV file, ``fold`` to letters (it tests, the rest train), ``seed`` to
    drawn. ``num_train`` and ``num_test`` say how many samples to draw, 20,000 and 4,000 if None, or
    to take from the beginning of a file, all if None. ``log`` gets a line for each download.

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
    limits = Limits(num_train, num_test)
    if is_csv:
        test_path = None if test_file is None else _csv_path(test_file, data_dir)
        return load_csv(_csv_path(Path(name), data_dir), test_path, limits)
    match name:
        case "letters":
            return _load_letters(data_dir, fold, limits, log)
        case "mnist":
            return _load_mnist(data_dir, limits, log)
        case "svhn":
            return _load_svhn(data_dir, limits, log)
    return _load_drawn(seed, limits)


def _load_drawn(seed: int, limits: Limits) -> Dataset:
    num_train, num_test = limits.drawn()
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
        image_shape=(1, ROWS, COLUMNS),
    )


def _load_letters(
    data_dir: Path | None, fold: int, limits: Limits, log: Callable[[str], None]
) -> Dataset:
    path = locate(letters.LETTERS_FILE, "letters", data_dir, log)
    rows = letters.read_letters(path)
    is_test = rows.folds == fold
    if is_test.all() or not is_test.any():
        raise DataError(
            f"{path}: fold {fold} must have some of the {len(is_test)} rows, "
            f"got {np.count_nonzero(is_test)}"
        )
    pixels = rows.images.reshape(-1, 1, letters.ROWS, letters.COLUMNS)
    return image_dataset(
        "letters",
        ByteImages(pixels[~is_test], rows.labels[~is_test]),
        ByteImages(pixels[is_test], rows.labels[is_test]),
        white=1,
        num_classes=letters.NUM_CLASSES,
        source=f"{_identity(letters.LETTERS_FILE, path)}; fold {fold} tests",
        limits=limits,
    )


def _load_mnist(data_dir: Path | None, limits: Limits, log: Callable[[str], None]) -> Dataset:
    paths = [locate(file, "mnist", data_dir, log) for file in mnist.MNIST_FILES]
    train, test = mnist.read_half(paths[0], paths[1]), mnist.read_half(paths[2], paths[3])
    (height, width), found = train.pixels.shape[2:], test.pixels.shape[2:]
    if found != (height, width):
        raise DataError(
            f"{paths[2]}: byte 8: expected images of {height} x {width} pixels as in "
            f"{paths[0]}, got {found[0]} x {found[1]}"
        )
    return image_dataset(
        "mnist", train, test,
        white=255, num_classes=mnist.NUM_CLASSES,
        source="; ".join(map(_identity, mnist.MNIST_FILES, paths)), limits=limits,
    )  # fmt: skip


def _load_svhn(data_dir: Path | None, limits: Limits, log: Callable[[str], None]) -> Dataset:
    paths = [locate(file, "svhn", data_dir, log) for file in svhn.SVHN_FILES]
    train, test = map(svhn.read_half, paths)
    return image_dataset(
        "svhn", train, test,
        white=255, num_classes=svhn.NUM_CLASSES,
        source="; ".join(map(_identity, svhn.SVHN_FILES, paths)), limits=limits,
    )  # fmt: skip


def _identity(file: PublishedFile, path: Path) -> str:
    digest = digest_of(path, file.checksum)
    kind = "official" if file.is_official(digest) else "not the official file"
    return f"{path}, {file.checksum} {digest[:12]} ({kind})"


def _csv_path(path: Path, data_dir: Path | None) -> Path:
    """Return the path, taken from ``data_dir`` if it is not there as it stands."""
    return path if data_dir is None or os.path.lexists(path) else data_dir / path
