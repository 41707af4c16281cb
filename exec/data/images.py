"""Make a Dataset of images whose pixels are bytes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.data.limits import Limits

_IMAGES_AT_A_TIME = 4096  # So that a transposed part is never a copy of the whole.


@dataclass(frozen=True, slots=True)
class ByteImages:
    """The training or the test half of a published set, as its files have it."""

    pixels: NDArray[np.uint8]  # (n, channels, height, width), in any memory order
    labels: NDArray[np.int64]  # (n,), from 0


def image_dataset(
    name: str,
    train: ByteImages,
    test: ByteImages,
    *,
    white: int,
    num_classes: int,
    source: str,
    limits: Limits,
) -> Dataset:
    """Return the Dataset of two halves, whose images have one shape; ``white`` becomes 1.

    Raises:
        UsageError: ``limits`` want more samples than there are.
    """
    num_train, num_test, said = limits.first(name, len(train.labels), len(test.labels))
    channels, height, width = train.pixels.shape[1:]
    return Dataset(
        name=name,
        train_images=_rows(train.pixels[:num_train], white),
        train_labels=train.labels[:num_train],
        test_images=_rows(test.pixels[:num_test], white),
        test_labels=test.labels[:num_test],
        num_classes=num_classes,
        source=source + said,
        image_shape=(channels, height, width),
    )


def _rows(pixels: NDArray[np.uint8], white: int) -> NDArray[np.float32]:
    """Return the images as rows in [0, 1], in the order channel, row, column."""
    num_images, channels, height, width = pixels.shape
    rows = np.empty((num_images, channels * height * width), np.float32)
    for start in range(0, num_images, _IMAGES_AT_A_TIME):
        part = pixels[start : start + _IMAGES_AT_A_TIME]
        np.divide(
            part.reshape(len(part), -1),
            np.float32(white),
            out=rows[start : start + len(part)],
            dtype=np.float32,
        )
    return rows
