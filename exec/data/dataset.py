"""A Dataset: labelled images to train on and labelled images to test on.

Images are rows of pixels in [0, 1], not rectangles: a network of dense layers sees only the row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    @property
    def num_features(self) -> int:
        """Return the number of pixels in one image."""
        return int(self.train_images.shape[1])
