"""Laws of the workload's counts, and the networks it refuses."""

import math

import pytest

from exec.errors import UsageError
from exec.network.network import mlp
from exec.network.parse import parse_net
from exec.program.ops import Kernel, Shape
from exec.workload import Workload, kernel_elements, kernel_flops, positive


def test_net_parses_to_its_widths_and_back() -> None:
    for net in ("128-26", "128-100-26", "1-1-1-2"):
        assert Workload(parse_net(net), 1).net == net


@pytest.mark.parametrize(
    "net", ["", "128", "128-", "-128-26", "128--26", "128-x-26", "128 26", "12.8-26", "²-3"]
)
def test_net_that_is_not_widths_is_refused(net: str) -> None:
    with pytest.raises(UsageError, match="net must be widths joined by '-'"):
        parse_net(net)


@pytest.mark.parametrize(
    ("widths", "batch", "message"),
    [
        ((5,), 1, "net must have an input and an output width, got 5"),
        ((0, 2), 1, "net must have widths of 1 to 10 million, got 0-2"),
        ((5, 1), 1, "net must end in at least 2 classes, got 5-1"),
        ((5, 2), 0, "batch must be at least 1, got 0"),
    ],
)
def test_workload_that_cannot_be_is_refused(
    widths: tuple[int, ...], batch: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Workload(mlp(*widths), batch)


def test_width_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(UsageError, match="1 to 10 million"):
        parse_net("128-99999999-26")


def test_parameters_are_weights_and_biases() -> None:
    # 128 x 100 + 100 and 100 x 26 + 26, by hand.
    assert Workload(mlp(128, 100, 26), 1).num_parameters == 12_900 + 2_626


def test_flops_of_a_dense_layer_are_three_products_or_two_for_the_first() -> None:
    # One multiply-add is 2 flops; a product of k x m for one sample is 2 k m. The first layer needs
    # no gradient of its input. The bias costs m forward and m backward.
    workload = Workload(mlp(7, 5, 3), 1)
    assert workload.node_flops(0) == 2 * (2 * 7 * 5) + 2 * 5
    assert workload.node_flops(2) == 3 * (2 * 5 * 3) + 2 * 3


@pytest.mark.parametrize("kernel", Kernel)
def test_op_carries_the_counts_of_its_kernel(kernel: Kernel) -> None:
    shape = Shape(3, 4, 5)
    op = Workload(mlp(4, 5), 3, itemsize=8).compute(kernel, 0, 2, shape)
    assert (op.flops, op.nbytes) == (
        kernel_flops(kernel, shape),
        8 * kernel_elements(kernel, shape),
    )
    assert op.id == f"{kernel}.0.2"


@pytest.mark.parametrize(
    "kernel", [k for k in Kernel if k not in (Kernel.UPDATE, Kernel.ACCUMULATE)]
)
def test_no_samples_need_no_flops(kernel: Kernel) -> None:
    assert kernel_flops(kernel, Shape(0, 4, 5)) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0])
def test_value_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="rate must be a finite number greater than 0"):
        positive("rate", value)


def test_zero_is_allowed_only_where_it_is_said() -> None:
    positive("momentum", 0.0, or_zero=True)
    with pytest.raises(UsageError, match="momentum must be a finite number at least 0"):
        positive("momentum", -0.5, or_zero=True)
