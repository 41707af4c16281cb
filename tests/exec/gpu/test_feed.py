"""Batches in any order, with all samples on the device or a part of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.device.protocol import Device, zeros
from exec.errors import UsageError
from exec.gpu.feed import DeviceFeed
from exec.gpu.loading import advance, load_images
from exec.gpu.loss import Loss
from tests.exec.gpu.arrays import SEEDS, SETTINGS, Array, normal

NUM, FEATURES, CLASSES = 40, 3, 5
ROW_NBYTES = FEATURES * 8 + 4
IMAGES = normal(1, NUM, FEATURES)
LABELS = np.random.default_rng(2).integers(0, CLASSES, NUM)

Turn = tuple[int, int]


def feed_of(device: Device, room_rows: int) -> DeviceFeed:
    """Return a feed with room for so many samples."""
    return DeviceFeed(device, device.stream(), IMAGES, LABELS, room_rows * ROW_NBYTES)


def run(feed: DeviceFeed, epochs: list[tuple[Array, list[Turn]]]) -> list[tuple[Array, Array]]:
    """Return the images and labels of each turn, none of which is looked at before the last."""
    device, stream, found = feed.device, feed.stream, []
    for order, turns in epochs:
        given_order = order.copy()
        feed.begin(given_order)
        given_order[:] = -1  # the feed has its own
        for start, stop in turns:
            rows = stop - start
            images = device.empty(rows * FEATURES, np.float64).reshape(rows, FEATURES)
            gradient = zeros(device, CLASSES * rows, np.float64).reshape(CLASSES, rows)
            loss = Loss(stream, gradient, None, feed.labels, feed.order, feed.position, 0, 1.0)
            load = load_images(
                stream, feed.images, feed.order, feed.position, 0, rows, images,
                shape=(1, 1, FEATURES), into="rows",
            )  # fmt: skip
            move = advance(stream, feed.position, rows)
            feed.take(start, stop)
            load()
            loss.forward_backward()
            move()
            found.append((images, gradient))
    return [(device.read(images), device.read(gradient)) for images, gradient in found]


def assert_right(found: list[tuple[Array, Array]], epochs: list[tuple[Array, list[Turn]]]) -> None:
    """Fail unless every turn had the samples it asked for."""
    wanted = [order[start:stop] for order, turns in epochs for start, stop in turns]
    assert len(found) == len(wanted)
    for (images, gradient), samples in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(images, IMAGES[samples])
        # Without a sign of any class, the gradient is least at the label.
        if len(samples):
            np.testing.assert_array_equal(gradient.argmin(axis=0), LABELS[samples])


def in_sequence(rows: int, num: int = NUM) -> list[Turn]:
    return [(start, min(start + rows, num)) for start in range(0, num, rows)]


@pytest.mark.parametrize("room_rows", [NUM, NUM - 1, 16, 8])
@SETTINGS
@given(st.integers(1, 7), SEEDS)
def test_epochs_in_sequence(device: Device, room_rows: int, rows: int, seed: int) -> None:
    feed = feed_of(device, room_rows)
    assert feed.is_resident == (room_rows == NUM)
    generator = np.random.default_rng(seed)
    epochs = [(generator.permutation(NUM), in_sequence(rows)) for _ in range(3)]
    assert_right(run(feed, epochs), epochs)


@pytest.mark.parametrize("room_rows", [NUM, 17, 9, 2])
@SETTINGS
@given(st.data(), SEEDS)
def test_turns_in_any_order(device: Device, room_rows: int, data: st.DataObject, seed: int) -> None:
    feed = feed_of(device, room_rows)
    generator = np.random.default_rng(seed)
    epochs = []
    for _ in range(2):
        num = data.draw(st.integers(1, NUM))
        order = generator.integers(0, NUM, num)
        starts = st.integers(0, num)
        turns = [
            (start, data.draw(st.integers(start, min(num, start + feed.max_turn))))
            for start in data.draw(st.lists(starts, max_size=8))
        ]
        epochs.append((order, turns))
    assert_right(run(feed, epochs), epochs)


def test_places_never_change(device: Device) -> None:
    for room_rows in (NUM, 10):
        feed = feed_of(device, room_rows)
        places = feed.images, feed.labels, feed.order, feed.position
        run(feed, [(np.arange(NUM), in_sequence(4))] * 2)
        assert (feed.images, feed.labels, feed.order, feed.position) == places


def test_what_does_not_fit_is_refused(device: Device) -> None:
    with pytest.raises(UsageError, match="room on the device must hold 2 samples of 28 bytes"):
        feed_of(device, 1)
    feed = feed_of(device, 10)
    with pytest.raises(UsageError, match="order must have at most 40 samples, got 41"):
        feed.begin(np.zeros(NUM + 1, np.int64))
    feed.begin(np.arange(NUM))
    assert feed.max_turn == 10
    with pytest.raises(UsageError, match="a turn's samples must be at most 10,"):
        feed.take(0, 11)
