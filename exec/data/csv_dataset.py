"""Make a Dataset of one or two CSV files: which file tests, and what the pixels' scale is."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.data.labelled_csv import MAX_PIXEL, read_csv
from exec.data.limits import Limits
from exec.data.reading import digest_of
from exec.errors import DataError

HOLD_OUT = 10  # Without a test file, every tenth row tests.

_SIBLINGS = (
    ("Train", "Validation"),
    ("Train", "Test"),
    ("train", "validation"),
    ("train", "test"),
)


def load_csv(train_path: Path, test_path: Path | None, limits: Limits = Limits()) -> Dataset:
    """Load a training file and its test file: the one given, a sibling, or every tenth row.

    Pixels are taken as they are if none in either file exceeds 1, and divided by 255 otherwise.
    Their scale and the classes are those of whole files, whatever ``limits`` take of them.
    """
    chosen = test_path or find_sibling(train_path)
    train_pixels, train_labels = read_csv(train_path)
    source = f"{train_path}, SHA-256 {digest_of(train_path)[:12]}"
    if chosen is not None:
        test_pixels, test_labels = read_csv(chosen)
        if test_pixels.shape[1] != train_pixels.shape[1]:
            raise DataError(
                f"{chosen}: line 1: expected {train_pixels.shape[1] + 1} columns as in "
                f"{train_path}, got {test_pixels.shape[1] + 1}"
            )
        how = "tested on" if test_path else "tested on its sibling"
        source += f"; {how} {chosen}, SHA-256 {digest_of(chosen)[:12]}"
    else:
        if len(train_labels) < HOLD_OUT:
            raise DataError(
                f"{train_path}: needs a test file, or at least {HOLD_OUT} rows to hold some out, "
                f"got {len(train_labels)} rows"
            )
        is_held_out = np.arange(len(train_labels)) % HOLD_OUT == HOLD_OUT - 1
        test_pixels, test_labels = train_pixels[is_held_out], train_labels[is_held_out]
        train_pixels, train_labels = train_pixels[~is_held_out], train_labels[~is_held_out]
        source += f"; tested on every {HOLD_OUT}th row"
    scale = MAX_PIXEL if max(train_pixels.max(), test_pixels.max()) > 1 else 1.0
    if scale != 1:
        source += f"; pixels / {scale:g}"
    name = train_path.stem
    num_train, num_test, said = limits.first(name, len(train_labels), len(test_labels))
    return Dataset(
        name=name,
        train_images=_scaled(train_pixels[:num_train], scale),
        train_labels=train_labels[:num_train],
        test_images=_scaled(test_pixels[:num_test], scale),
        test_labels=test_labels[:num_test],
        num_classes=int(max(train_labels.max(), test_labels.max())) + 1,
        source=source + said,
    )


def find_sibling(train_path: Path) -> Path | None:
    """Return the file named like ``train_path`` with Validation or Test for Train, or None."""
    for train, test in _SIBLINGS:
        before, found, after = train_path.name.rpartition(train)
        if found and os.path.isfile(sibling := train_path.with_name(before + test + after)):
            return sibling
    return None


def _scaled(pixels: NDArray[np.float64], scale: float) -> NDArray[np.float32]:
    return (pixels / scale).astype(np.float32)
