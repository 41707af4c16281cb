"""Which dataset a network is trained on must fit its images and classes; one message says how."""

import re

import pytest

from exec.data.noise import noise_dataset
from exec.errors import UsageError
from exec.network.network import Image
from exec.network.parse import parse_net
from exec.runtime.source import Source, check_fits
from exec.workload import Workload


@pytest.mark.parametrize(
    "net, image, classes",
    [
        ("784-20-10", (1, 28, 28), 10),
        ("784-20-10", (1, 1, 784), 10),
        ("784-20-10", (4, 14, 14), 10),
        ("cnn", (1, 28, 28), 10),
        ("cnn:3x16x16:5", (3, 16, 16), 5),
    ],
)
def test_what_fits_is_taken(net: str, image: Image, classes: int) -> None:
    check_fits(parse_net(net), noise_dataset(image, classes, 20, 5, 0))


@pytest.mark.parametrize(
    "net, image, classes, message",
    [
        ("cnn:3x32x32:10", (1, 28, 28), 10,
         "net must take the 1x28x28 images of noise and tell its 10 classes apart, "
         "got cnn:3x32x32:10 with 3x32x32 and 10; for example --net cnn"),
        ("cnn", (1, 16, 8), 26, "got cnn with 1x28x28 and 10; for example --net cnn:1x16x8:26"),
        ("cnn", (1, 28, 28), 26, "tell its 26 classes apart, got cnn with 1x28x28 and 10; for example"),
        ("cnn", (1, 14, 56), 10, "must take the 1x14x56 images of noise"),
        ("784-20-10", (1, 16, 8), 10, "got 784-20-10 with 784 units and 10; for example --net 128-20-10"),
        ("784-20-10", (1, 1, 128), 26, "must take the 128 features of noise and tell its 26 classes apart, got 784-20-10"),
        ("cnn", (1, 1, 2), 10, "got cnn with 1x28x28 and 10; use a net that does"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_one_that_would(
    net: str, image: Image, classes: int, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        check_fits(parse_net(net), noise_dataset(image, classes, 20, 5, 0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("net", ["784-20-10", "cnn:3x9x8:4"])
def test_noise_fits_any_network(net: str) -> None:
    network = parse_net(net)
    source = Source("noise", None, None, 0, 40, 10, 0)
    dataset = source.load_for(Workload(network, 8))
    assert dataset.num_classes == network.num_classes
    assert dataset.num_features == network.num_features
