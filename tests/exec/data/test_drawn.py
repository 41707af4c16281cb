"""Laws of the letters drawn on the spot."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.data.drawn import ALPHABET, draw_letters
from exec.data.strokes import GLYPHS, trace


def test_same_seed_gives_the_same_bits() -> None:
    images, labels = draw_letters(300, 7, 0)
    again, labels_again = draw_letters(300, 7, 0)
    assert images.tobytes() == again.tobytes()
    assert labels.tobytes() == labels_again.tobytes()


def test_bits_are_those_of_every_other_platform() -> None:
    images, labels = draw_letters(2600, 0, 0)
    digest = hashlib.sha256(images.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == "0cfada5475c1a128cab8be8c18e6bef2620f1bf483160d4af77796c5e25110a8"


def test_a_longer_set_begins_with_the_shorter_one() -> None:
    images, labels = draw_letters(1000, 3, 1)
    fewer, fewer_labels = draw_letters(100, 3, 1)
    assert np.array_equal(images[:100], fewer)
    assert np.array_equal(labels[:100], fewer_labels)


@pytest.mark.parametrize("other", [(1, 0), (0, 1)])
def test_another_seed_or_stream_gives_other_letters(other: tuple[int, int]) -> None:
    images, labels = draw_letters(260, 0, 0)
    others, other_labels = draw_letters(260, *other)
    assert not np.array_equal(labels, other_labels)
    seen = {image.tobytes() for image in images}
    assert sum(image.tobytes() in seen for image in others) < 26


@given(num_letters=st.integers(1, 200), seed=st.integers(0, 2**64))
def test_letters_are_black_and_white_and_balanced(num_letters: int, seed: int) -> None:
    images, labels = draw_letters(num_letters, seed, 0)
    assert images.shape == (num_letters, 128)
    assert images.dtype == np.float32
    assert set(np.unique(images)) <= {0.0, 1.0}
    counts = np.bincount(labels, minlength=26)
    assert len(counts) == 26
    assert counts.max() - counts.min() <= 1


def test_no_letter_is_blank_or_blotted() -> None:
    images, _ = draw_letters(2600, 0, 0)
    ink = images.sum(axis=1)
    assert ink.min() >= 5
    assert ink.max() <= 100


def test_nearest_mean_letter_is_right_far_more_often_than_chance_yet_not_always() -> None:
    images, labels = draw_letters(2600, 0, 0)
    tests, test_labels = draw_letters(1300, 0, 1)
    means = np.array([images[labels == label].mean(axis=0) for label in range(26)])
    guess = ((tests[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.5 < np.mean(guess == test_labels) < 0.95


def test_every_letter_has_one_or_two_glyphs() -> None:
    assert "".join(GLYPHS) == ALPHABET
    assert {len(hands) for hands in GLYPHS.values()} <= {1, 2}


@pytest.mark.parametrize("letter", ALPHABET)
def test_strokes_stay_near_the_box_and_have_the_points_asked_for(letter: str) -> None:
    for glyph in GLYPHS[letter]:
        points = trace(glyph, 64, 6.4, 14.4)
        assert len(points) == 64
        assert all(-0.5 < x < 6.9 and -0.5 < y < 14.9 for x, y in points)


def test_a_straight_stroke_is_evenly_spaced() -> None:
    points = trace("0,0 100,0", 11, 10.0, 1.0)
    gaps = [b[0] - a[0] for a, b in pairwise(points)]
    assert gaps == pytest.approx([1.0] * 10, rel=1e-12)
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (10.0, 0.0)
