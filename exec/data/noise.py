"""Noise: random images and labels of any width, for timing a network that no dataset fits."""

import numpy as np

from exec.data.dataset import Dataset


def noise_dataset(num_features: int, num_classes: int, num_train: int, num_test: int, seed: int) -> Dataset:  # fmt: skip
    """Return uniform random images with uniform random labels; nothing can be learnt from it."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2])))
    images = generator.random((num_train + num_test, num_features), dtype=np.float32)
    labels = generator.integers(0, num_classes, num_train + num_test)
    return Dataset(
        name="noise",
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        test_images=images[num_train:],
        test_labels=labels[num_train:],
        num_classes=num_classes,
        source=f"random numbers, seed {seed}",
    )
