"""A Dataset: labelled images to train on and labelled images to test on.

Images are rows of pixels in [0, 1], which is all that a network of dense layers sees. A network of
convolutions takes a row as an image of ``image_shape``, channel by channel and row by row.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]  # Channels, height, width.


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training and test images with their labels, checked to fit one another."""

    name: str
    train_images: NDArray[np.float32]  # (num_train, num_features), values in [0, 1]
    train_labels: NDArray[np.int64]  # (num_train,), 0 .. num_classes - 1
    test_images: NDArray[np.float32]  # (num_test, num_features)
    test_labels: NDArray[np.int64]  # (num_test,)
    num_classes: int
    source: str  # One line for the log: file, checksum or seed.
    image_shape: Shape = (1, 1, -1)  # As in NumPy, -1 is what the rest leaves of a row.

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit; a parser that lets them through has a bug."""
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {self.num_classes}")
        for half, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.ndim != 2 or labels.shape != images.shape[:1] or images.size == 0:
                raise ValueError(
                    f"{half} images and labels must be (n, features) and (n,) with n > 0, "
                    f"got {images.shape} and {labels.shape}"
                )
            if images.dtype != np.float32 or labels.dtype != np.int64:
                raise ValueError(
                    f"{half} images and labels must be float32 and int64, "
                    f"got {images.dtype} and {labels.dtype}"
                )
            # The negation also catches NaN, which compares false with everything.
            if not (images.min() >= 0 and images.max() <= 1):
                raise ValueError(f"{half} pixels must be in [0, 1]")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(
                    f"{half} labels must be 0 .. {self.num_classes - 1}, "
                    f"got {labels.min()} .. {labels.max()}"
                )
        if self.train_images.shape[1] != self.test_images.shape[1]:
            raise ValueError(
                "train and test images must have equally many pixels, "
                f"got {self.train_images.shape[1]} and {self.test_images.shape[1]}"
            )
        if self.image_shape == (1, 1, -1):
            object.__setattr__(self, "image_shape", (1, 1, self.num_features))
        if min(self.image_shape) < 1 or math.prod(self.image_shape) != self.num_features:
            raise ValueError(
                f"image_shape must make the {self.num_features} pixels of a row, "
                f"got {spelled(self.image_shape)}"
            )

    @property
    def num_features(self) -> int:
        """Return the number of pixels in one image."""
        return int(self.train_images.shape[1])


def spelled(image_shape: Shape) -> str:
    """Return a shape in words.

    >>> spelled((3, 32, 24))
    '3 channels of 32 x 24 pixels (height x width)'
    """
    channels, height, width = image_shape
    return (
        f"{channels} channel{'s' * (channels != 1)} of {height} x {width} pixels (height x width)"
    )
