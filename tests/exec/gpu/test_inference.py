"""Inference on a device: what a plain evaluation finds, whatever the chunk."""

import numpy as np
import pytest
from hypothesis import given, settings

from exec.device.protocol import Device
from exec.gpu import inference
from exec.gpu.evaluation import Evaluation, learnt_of
from exec.gpu.inference import chunk_rows, num_correct
from exec.network.modules import Add, AvgPool, Conv2d, Linear
from exec.network.named import named_network
from exec.network.network import Network, build, mlp
from exec.nn.weights import Weights
from tests.exec.gpu.device_images import Host, numbers_of
from tests.exec.nn.plain_evaluation import plain_logits, random_weights
from tests.exec.random_networks import small_networks


def images_for(network: Network, count: int) -> Host:
    """Return random images."""
    return np.random.Generator(np.random.PCG64(1)).random((count, network.num_features))


def logits_of(device: Device, weights: Weights, images: Host) -> Host:
    """Return the logits, (samples, classes), of images evaluated in rooms with one to spare."""
    network, rows = weights.network, len(images)
    learnt = learnt_of(network, *map(device.upload, (weights.parameters, weights.stats)))
    evaluation = Evaluation.of(device.stream(), network, learnt, rows + 1, np.float64)
    device.write(evaluation.staged[:rows], images)
    run, logits = evaluation.bind(rows)
    run()
    return numbers_of(device, logits)[:, 0, 0].T


@settings(max_examples=60, deadline=None, derandomize=True)
@given(small_networks())
def test_logits_are_those_of_a_plain_evaluation(device: Device, network: Network) -> None:
    weights, images = random_weights(network), images_for(network, 5)
    expected = plain_logits(weights, images)
    # Some thousand roundings of 1.1e-16, of numbers at most 1000 times the largest logit.
    scale = max(np.abs(expected).max(), 1.0)
    found = logits_of(device, weights, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("terms", [("pool", "fc1"), ("fc1", "pool")])
def test_images_of_one_pixel_are_added_to_what_dense_layers_give(
    device: Device, terms: tuple[str, str]
) -> None:
    steps = [
        ("conv", Conv2d(5, (2, 2)), ()),
        ("pool", AvgPool(), ()),
        ("fc1", Linear(5), ()),
        ("add", Add(), terms),
        ("fc2", Linear(3), ()),
    ]
    network = build("net", (2, 4, 3), steps)
    weights, images = random_weights(network), images_for(network, 7)
    expected = plain_logits(weights, images)
    np.testing.assert_allclose(logits_of(device, weights, images), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name, is_on_device", [("mlp", True), ("mlp", False), ("cnn", False), ("resnet18-small", True)]
)
def test_as_many_are_right_as_a_plain_evaluation_finds(
    device: Device, name: str, is_on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = mlp(12, 9, 7, 4) if name == "mlp" else named_network(name, (1, 9, 9), 4)
    weights, images = random_weights(network), images_for(network, 20)
    labels = np.random.Generator(np.random.PCG64(2)).integers(0, 4, 20)
    expected = int((plain_logits(weights, images).argmax(axis=1) == labels).sum())
    monkeypatch.setattr(inference, "_MAX_ROWS", 8)  # the last chunk is of 4
    found = num_correct(
        device.stream(), network, weights.parameters, weights.stats,
        device.upload(images) if is_on_device else images, labels, np.float64,
    )  # fmt: skip
    assert found == expected
    assert 0 < expected < 20


def test_the_first_of_equal_logits_is_the_likeliest(device: Device) -> None:
    network = mlp(3, 2, 4)
    zeros = np.zeros(network.num_parameters), np.zeros(0)
    images, labels = np.ones((6, 3)), np.array([0, 1, 2, 3, 0, 0])
    assert num_correct(device.stream(), network, *zeros, images, labels, np.float64) == 3
    assert num_correct(device.stream(), network, *zeros, images[:0], labels[:0], np.float64) == 0


def test_a_chunk_fits_into_its_bytes() -> None:
    network = named_network("resnet18", (3, 224, 224), 1000)
    rows = chunk_rows(network, 4)
    assert 1 <= rows < chunk_rows(named_network("cnn", (1, 28, 28), 10), 4)
