"""Laws of networks, and the graphs that are refused."""

import math
import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given

from exec.errors import UsageError
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    ReLU,
)
from exec.network.network import INPUT, Network, build, mlp
from tests.exec.random_networks import seeded_networks, small_networks

Steps = list[tuple[str, Module, Sequence[str]]]


@given(small_networks())
def test_every_layer_comes_after_its_inputs_and_is_used(network: Network) -> None:
    for index, node in enumerate(network.nodes):
        assert all(INPUT <= value < index for value in node.inputs)
        assert index == len(network.nodes) - 1 or network.consumers[index]
    assert network.num_parameters == sum(map(network.parameters, range(len(network.nodes))))
    assert 2 <= network.num_classes <= 4
    assert max(network.image) <= 8
    assert sum(isinstance(each.module, Linear | Conv2d) for each in network.nodes) >= 2


@given(small_networks())
def test_one_value_crosses_where_a_stage_may_begin(network: Network) -> None:
    for first in network.stage_starts[1:]:  # the first stage has all that comes before
        later = network.nodes[first:]
        assert len({value for node in later for value in node.inputs if value < first}) == 1


@given(small_networks(batchnorm=False, image=(2, 5, 4), classes=3))
def test_random_networks_are_as_asked(network: Network) -> None:
    assert (network.image, network.num_classes) == ((2, 5, 4), 3)
    assert not any(isinstance(node.module, BatchNorm2d) for node in network.nodes)


def test_random_networks_hold_every_module_and_both_kinds_of_shortcut() -> None:
    networks = seeded_networks(200, seed=1)
    kinds = {type(node.module) for network in networks for node in network.nodes}
    assert len(kinds) == 9
    shortcuts = {
        type(network.nodes[node.inputs[1]].module)
        for network in networks
        for node in network.nodes
        if isinstance(node.module, Add)
    }
    assert {Conv2d, BatchNorm2d, ReLU} <= shortcuts
    assert networks == seeded_networks(200, seed=1)


def test_shapes_are_those_of_the_sliding_window() -> None:
    steps: Steps = [
        ("a", Conv2d(5, (3, 2), (2, 1), (1, 0)), ()),
        ("b", MaxPool((3, 3), (2, 2), (1, 1)), ()),
        ("c", AvgPool(), ()),
        ("d", Linear(2), ()),
    ]
    network = build("a", (3, 7, 8), steps)
    assert [node.shape for node in network.nodes] == [(5, 4, 7), (5, 2, 4), (5, 1, 1), (2, 1, 1)]
    assert network.num_parameters == 5 * (3 * 3 * 2 + 1) + 2 * (5 + 1)
    assert math.prod(network.image) == network.num_features


FC = ("fc", Linear(2), ())


@pytest.mark.parametrize(
    ("image", "steps", "message"),
    [
        ((1, 1, 1), [], "net n must have a layer, got none"),
        ((0, 1, 1), [FC], "net n must have images of 1x1x1 to 100 million numbers, got 0x1x1"),
        ((4, 1, 1), [("input", Linear(2), ())], "layer input must have a name of its own, got that of the images"),
        ((4, 1, 1), [FC, FC], "layer fc must have a name of its own, got one that is taken"),
        ((4, 1, 1), [("1a", Linear(2), ())], "layer '1a' must have a name of letters, digits and _ . -"),
        ((4, 1, 1), [("a\n", Linear(2), ())], r"layer 'a\\n' must have a name of letters"),
        ((4, 1, 1), [("a", Linear(2), ("b",)), ("b", Linear(2), ())], "layer a must take outputs of layers before it, got 'b'"),
        ((4, 1, 1), [("a", Linear(3), ()), ("fc", Linear(2), ("input",))], "layer a must be used by another, got nobody"),
        ((4, 2, 1), [FC], "layer fc must have a flat input, got 4x2x1; put a flatten before it"),
        ((4, 1, 1), [("fc", Linear(1), ())], "net n must end in at least 2 classes, got 1"),
        ((4, 1, 1), [FC, ("r", ReLU(), ())], "layer r, the last, must give one number for each class, got 2 units of ReLU"),
        ((4, 1, 1), [("f", Flatten(), ())], "layer f, the last, must give one number for each class"),
        ((4, 2, 2), [("p", AvgPool(), ())], "net n must have a layer with weights"),
        ((4, 1, 1), [("a", Linear(2), ()), ("s", Add(), ("a", "a"))], "layer s must have two different inputs, got one twice"),
        ((4, 1, 1), [("a", Linear(2), ()), ("s", Add(), ("a",))], "layer s must have 2 inputs, got 1"),
        ((4, 1, 1), [("a", Linear(2), ()), ("s", Add(), ("a", "input"))], "layer s must have two inputs of one shape, got 2 units and 4 units"),
        ((1, 2, 2), [("a", Conv2d(2, (3, 1)), ())], "layer a must have a kernel that fits its input with padding, got kernel 3x1 and padding 0x0 for 1x2x2"),
        ((1, 2, 2), [("a", MaxPool((2, 2), (1, 1), (2, 0)), ())], "layer a must have a padding of at most half its kernel, got 2x0"),
        ((1, 2, 2), [("a", AvgPool(None, (2, 2)), ())], "layer a must have a kernel for its stride and padding, got none"),
        ((1, 2, 2), [("a", BatchNorm2d(eps=0.0), ())], "layer a must have eps and momentum of 0 to 1, and eps not 0, got 0.0 and 0.1"),
        ((1, 2, 2), [("a", BatchNorm2d(eps=float("nan")), ())], "layer a must have eps and momentum of 0 to 1"),
        ((1, 9, 9), [("a", Conv2d(1, (1, 1), padding=(10**6, 10**6)), ())], "layer a must give at most a billion numbers a sample, got 1x2000009x2000009"),
        ((10**7, 1, 1), [("a", Linear(10**7), ()), FC], "net n must have at most 100000000000 parameters, got 100000030000002"),
    ],
)  # fmt: skip
def test_graph_that_cannot_be_is_refused(image: tuple[int, int, int], steps: Steps, message: str) -> None:  # fmt: skip
    with pytest.raises(UsageError, match=message):
        build("n", image, steps)


def test_network_of_another_name_is_equal_and_of_another_layer_is_not() -> None:
    assert build("a", (4, 1, 1), [FC]) == build("b", (4, 1, 1), [FC])
    assert mlp(4, 3, 2) != mlp(4, 5, 2)


def test_what_is_cached_is_not_pickled() -> None:
    network = mlp(6, 5, 3)
    hash(network)
    copy = pickle.loads(pickle.dumps(network))  # our own
    assert (copy, copy.name) == (network, network.name)
    assert set(vars(copy)) == {"name", "image", "nodes"}
