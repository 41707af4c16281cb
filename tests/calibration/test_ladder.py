"""Laws of the ladder: the same for everyone, wide enough, and without what forecasts are tested on."""

from collections import Counter

import pytest

from calibration.ladder import HELD_OUT_BATCHES, ladder
from exec.network.modules import Conv2d, Linear
from exec.network.named import named_network
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel, Shape
from exec.workload import Workload

FULL, QUICK = ladder(192), ladder(56)
CONVOLUTIONS = (Kernel.CONV, Kernel.CONV_BACKWARD, Kernel.CONV_BACKWARD_FIRST)


def shapes(workload: Workload) -> set[tuple[Kernel, Shape]]:
    """Return what the kernels of a step work on."""
    ops = plan_step(workload, Mesh()).roles[0].ops
    return {(op.kernel, op.shape) for op in ops if isinstance(op, Compute)}


MEASURED = set().union(*map(shapes, FULL))


def test_a_longer_ladder_begins_with_the_shorter_one() -> None:
    assert FULL[:56] == QUICK
    assert ladder(7) == QUICK[:7]
    assert len({(each.network, each.global_batch) for each in FULL}) == len(FULL)


def test_every_rung_has_a_name_of_its_own() -> None:
    names = Counter((each.net, each.global_batch) for each in FULL)
    assert names.most_common(1)[0][1] == 1
    assert [each.net for each in FULL[1:6:2]] == ["conv-rung-0", "conv-rung-1", "conv-rung-2"]


@pytest.mark.parametrize("name", ["cnn", "svhn-cnn", "resnet18-small"])
@pytest.mark.parametrize("batch", HELD_OUT_BATCHES)
def test_named_networks_are_not_on_the_ladder(name: str, batch: int) -> None:
    held_out = {
        (kernel, shape)
        for kernel, shape in shapes(Workload(named_network(name), batch))
        if kernel in CONVOLUTIONS or shape.p > 1
    }
    assert held_out
    assert not held_out & MEASURED


def test_a_quick_ladder_measures_every_kernel_of_a_step_well_often() -> None:
    counts = Counter(kernel for each in QUICK for kernel, _ in shapes(each))
    apart = {Kernel.ACCUMULATE, Kernel.TRANSPOSE, Kernel.TRANSPOSE_BACKWARD}
    assert set(counts) == set(Kernel) - apart
    assert min(counts.values()) >= 10


def test_the_ladder_reaches_what_is_asked_of_it() -> None:
    found = [shape for kernel, shape in MEASURED if kernel in CONVOLUTIONS]
    assert {round(shape.w**0.5) for shape in found} >= {1, 3, 5, 7}
    assert max(shape.m for shape in found) > 400
    assert max(shape.p for shape in found) > 2000
    assert {bool(shape.q > 3 * shape.p) for shape in found} == {True, False}  # strides of 1 and 2
    first = [
        shape.k // shape.w for kernel, shape in MEASURED if kernel is Kernel.CONV_BACKWARD_FIRST
    ]
    counts = Counter(first)
    assert counts[1] > 10
    assert counts[3] > 10


def test_no_step_takes_long() -> None:
    for each in FULL:
        flops = sum(
            each.node_flops(index)
            for index, node in enumerate(each.network.nodes)
            if isinstance(node.module, Linear | Conv2d)
        )
        assert flops * each.global_batch <= 4 * 10**9
