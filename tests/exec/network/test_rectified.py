"""Which weights are drawn for a ReLU."""

import pytest

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
    Sigmoid,
)
from exec.network.named import named_network
from exec.network.network import build, mlp
from exec.network.rectified import feeds_relu


@pytest.mark.parametrize(
    "between, expected",
    [
        ([], False),
        ([ReLU()], True),
        ([BatchNorm2d(), MaxPool((1, 1), (1, 1)), AvgPool(), ReLU()], True),
        ([Flatten(), ReLU()], True),
        ([Sigmoid()], False),
        ([Sigmoid(), ReLU()], False),
        ([Conv2d(2, (1, 1)), ReLU()], False),
    ],
)
def test_a_relu_is_met_through_what_only_scales_or_picks(
    between: list[Module], expected: bool
) -> None:
    steps = [("first", Conv2d(2, (1, 1)), ())]
    steps += [(f"between{i}", module, ()) for i, module in enumerate(between)]
    network = build("net", (1, 2, 2), [*steps, ("flat", Flatten(), ()), ("last", Linear(2), ())])
    assert feeds_relu(network, 0) is expected


def test_one_way_to_a_relu_is_enough() -> None:
    steps = [
        ("conv", Conv2d(1, (1, 1)), ()),
        ("bn", BatchNorm2d(), ("conv",)),
        ("sum", Add(), ("bn", "conv")),
        ("sigmoid", Sigmoid(), ("sum",)),
        ("other", ReLU(), ("sum",)),
        ("sum2", Add(), ("sigmoid", "other")),
        ("fc", Linear(2), ()),
    ]
    assert feeds_relu(build("net", (1, 1, 1), steps), 0)


def test_all_of_resnet_is_rectified_but_its_last_layer_and_nothing_of_an_mlp() -> None:
    network = named_network("resnet18")
    weighted = [i for i, node in enumerate(network.nodes) if isinstance(node.module, Conv2d | Linear)]  # fmt: skip
    assert [feeds_relu(network, node) for node in weighted] == [True] * 20 + [False]
    assert not any(feeds_relu(mlp(5, 4, 3), node) for node in range(3))
