"""Noise: random images and labels of any size, for timing a network that no dataset fits."""

import math

import numpy as np

from exec.data.dataset import Dataset, Shape


def noise_dataset(
    image_shape: int | Shape, num_classes: int, num_train: int, num_test: int, seed: int
) -> Dataset:
    """Return uniform random images with uniform random labels; nothing can be learnt from it.

    A number for ``image_shape`` is that of features, which are no rectangle. The same number of
    features has the same bits in any shape.
    """
    shape = (1, 1, image_shape) if isinstance(image_shape, int) else image_shape
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2])))
    images = generator.random((num_train + num_test, math.prod(shape)), dtype=np.float32)
    labels = generator.integers(0, num_classes, num_train + num_test)
    return Dataset(
        name="noise",
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        test_images=images[num_train:],
        test_labels=labels[num_train:],
        num_classes=num_classes,
        source=f"random numbers, seed {seed}",
        image_shape=shape,
    )
