"""Inference: what a plain evaluation finds, whatever the chunk, in arrays that values share."""

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from exec.network.named import named_network
from exec.network.network import Network, mlp
from exec.network.rooms import rooms_of
from exec.nn.inference import MAX_CHUNK, MAX_NBYTES, chunk_rows, evaluate, num_correct
from tests.exec.nn.plain_evaluation import plain_logits, random_weights
from tests.exec.random_networks import small_networks

Logits = NDArray[np.float64]


def images_for(network: Network, count: int) -> Logits:
    """Return random images."""
    return np.random.Generator(np.random.PCG64(1)).random((count, network.num_features))


def assert_close(found: Logits, expected: Logits) -> None:
    """Raise unless two evaluations differ by rounding only.

    That is some thousand roundings of 1.1e-16, of numbers at most 1000 times the largest logit.
    """
    scale = max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * scale)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(small_networks())
def test_logits_are_those_of_a_plain_evaluation(network: Network) -> None:
    weights, images = random_weights(network), images_for(network, 7)
    expected = plain_logits(weights, images)
    chunks = [logits.T.copy() for logits in evaluate(weights, images, 3)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert_close(np.concatenate(chunks), expected)


@pytest.mark.parametrize("name", ["12-9-7-4", "cnn:1x8x8:3", "svhn-cnn:3x20x20:3", "resnet18-small:3x9x9:4"])  # fmt: skip
def test_as_many_are_right_as_a_plain_evaluation_finds(name: str) -> None:
    if name[0].isdigit():
        network = mlp(*map(int, name.split("-")))
    else:
        base, image, classes = name.split(":")
        channels, height, width = map(int, image.split("x"))
        network = named_network(base, (channels, height, width), int(classes))
    weights, images = random_weights(network), images_for(network, 20)
    labels = np.random.Generator(np.random.PCG64(2)).integers(0, network.num_classes, 20)
    expected = int((plain_logits(weights, images).argmax(axis=1) == labels).sum())
    assert num_correct(weights, images, labels) == expected
    assert 0 < expected < 20


def test_a_short_last_chunk_is_evaluated_in_the_same_room() -> None:
    network = named_network("cnn", (1, 16, 8), 3)
    weights, images = random_weights(network), images_for(network, 48)
    found = np.concatenate([logits.T.copy() for logits in evaluate(weights, images, 32)])
    assert_close(found, plain_logits(weights, images))


def test_no_images_are_no_right_ones() -> None:
    network = mlp(4, 3)
    weights = random_weights(network)
    assert num_correct(weights, images_for(network, 0), np.zeros(0, np.int64)) == 0


def test_images_are_not_changed() -> None:
    network = named_network("cnn", (1, 8, 8), 3)
    images = images_for(network, 5)
    before = images.copy()
    list(evaluate(random_weights(network), images, 2))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name, most", [("cnn", MAX_CHUNK), ("resnet18-small", 64), ("resnet18", 8)])  # fmt: skip
def test_a_chunk_is_bounded_in_memory(name: str, most: int) -> None:
    network = named_network(name)
    rows = chunk_rows(network, 4)
    assert 1 < rows <= most
    assert sum(rooms_of(network).sizes) * rows * 4 <= MAX_NBYTES


def test_a_deep_network_needs_three_rooms() -> None:
    network = named_network("resnet18")
    rooms = rooms_of(network)
    pooled = network.width(3)
    assert sorted(rooms.sizes) == [pooled, pooled, network.width(0)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(small_networks())
def test_no_value_is_in_a_room_before_all_have_read_the_one_in_it(network: Network) -> None:
    rooms = rooms_of(network)
    inside = {rooms.of[-1]: {-1}}  # the values that each room holds just now
    for index, node in enumerate(network.nodes):
        assert all(value in inside[rooms.of[value]] for value in node.inputs)
        if type(node.module).__name__ == "Flatten":
            inside[rooms.of[index]].add(index)
        else:
            inside[rooms.of[index]] = {index}
        size = rooms.sizes[rooms.of[index]] if rooms.of[index] >= 0 else network.num_features
        assert size >= network.width(index)
