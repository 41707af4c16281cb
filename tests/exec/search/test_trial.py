"""What trials have in common: samples held back to judge them, and a space that can be trained."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.data.dataset import Dataset
from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.search.space import parse_space
from exec.search.trial import Setting, hold_back

TRAINING = 60


def numbered() -> Dataset:
    """Return noise whose first pixel is the sample's number, over TRAINING."""
    dataset = noise_dataset(3, 4, TRAINING, 5, seed=1)
    dataset.train_images[:, 0] = np.arange(TRAINING) / TRAINING
    return dataset


@given(st.floats(0.02, 0.98), st.integers(0, 100))
def test_samples_that_judge_are_never_trained_on_and_none_is_lost(share: float, seed: int) -> None:
    dataset = numbered()
    held = hold_back(dataset, share, seed)
    pairs = ((held.train_images, held.train_labels), (held.test_images, held.test_labels))
    numbers = [np.rint(images[:, 0] * TRAINING).astype(int) for images, _ in pairs]
    assert sorted(np.concatenate(numbers)) == list(range(TRAINING))
    assert len(numbers[1]) == round(share * TRAINING)
    for own, (_, labels) in zip(numbers, pairs, strict=True):
        np.testing.assert_array_equal(labels, dataset.train_labels[own])


def test_samples_are_held_back_at_random_by_seed() -> None:
    one, same, other = (hold_back(numbered(), 0.5, seed).test_images for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one[:, 0] * TRAINING > TRAINING / 2).any()  # not only the first half


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_side_may_be_empty(share: float) -> None:
    with pytest.raises(UsageError, match="must leave samples on both sides of the 60"):
        hold_back(numbered(), share, 0)


@pytest.mark.parametrize(
    ("batch", "ranks", "message"),
    [("32,61", 1, "at most the 60 training samples"), ("8:61", 1, "at most the 60"), ("4:32", 5, "at least dp x microbatches = 5")],
)  # fmt: skip
def test_space_with_a_point_that_cannot_be_trained_is_refused(
    batch: str, ranks: int, message: str
) -> None:
    space = parse_space({"layers": "1", "units": "5", "learning_rate": "1", "batch": batch, "epochs": "1"})  # fmt: skip
    with pytest.raises(UsageError, match=f"batch must be {message}"):
        Setting(numbered(), "float32", 0.0, 0).check(space, ranks)
