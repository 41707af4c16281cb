"""Pooling against PyTorch, its definition and finite differences; ties and padding included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.scratch import (
    Pair,
    average_pooling_scratch,
    max_pooling_scratch,
    output_length,
)
from exec.nn.pooling import AvgPool, MaxPool
from tests.exec.nn.finite_differences import ABS, gradient_of
from tests.exec.nn.images import Array, normal, samples_first, samples_last, windows

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
COUNTS, SEEDS = st.integers(1, 3), st.integers(0, 2**32)
KINDS = pytest.mark.parametrize("kind", [MaxPool, AvgPool])
Windows = tuple[Pair, Pair, Pair, Pair]


def module_of(
    kind: type, shape: tuple[int, ...], rest: tuple[Pair, Pair, Pair], *, adds: bool = False
) -> MaxPool | AvgPool:
    """Return a module whose input gradient starts at 0.5, in scratch that holds nothing usable."""
    channels, height, width, samples = shape
    size = [output_length(*axis) for axis in zip((height, width), *rest, strict=True)]
    scratch = max_pooling_scratch if kind is MaxPool else average_pooling_scratch
    work = np.full(scratch(samples, channels, height, width, *rest), np.nan)
    output = np.full((channels, *size, samples), np.nan)
    return kind(output, *rest, work, np.full(shape, 0.5), adds)


def check_against_torch(module: MaxPool | AvgPool, a: Array, gb: Array) -> None:
    """Check the output and the gradient."""
    torch = pytest.importorskip("torch", reason="needs torch: a development oracle")
    pool = torch.nn.functional.max_pool2d if isinstance(module, MaxPool) else torch.nn.functional.avg_pool2d  # fmt: skip
    x = torch.tensor(samples_first(a), requires_grad=True)
    expected = pool(x, module.kernel, module.stride, module.padding)
    expected.backward(torch.tensor(samples_first(gb)))
    # Whole numbers: maxima are exact, means have one rounding, gradients at most 16 of numbers
    # below 6.
    np.testing.assert_allclose(
        module.forward(a), samples_last(expected.detach().numpy()), rtol=0, atol=1e-15
    )
    found = module.backward(gb.copy())
    assert found is not None
    start = 0.5 * module.adds_input
    np.testing.assert_allclose(found, samples_last(x.grad.numpy()) + start, rtol=0, atol=2e-14)


@KINDS
@SETTINGS
@given(windows(), COUNTS, COUNTS, st.booleans(), SEEDS)
def test_pooling_follows_torch_where_many_are_equal(
    kind: type, shape: Windows, n: int, c: int, adds: bool, seed: int
) -> None:
    size, *rest = shape
    a = np.random.Generator(np.random.PCG64(seed)).integers(-1, 2, (c, *size, n)).astype(float)
    module = module_of(kind, a.shape, tuple(rest), adds=adds)
    check_against_torch(module, a, normal(seed, *module.output.shape))


@KINDS
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (20, 15)])
def test_blocks_and_global_windows_make_no_difference(kind: type, kernel: Pair, adds: bool) -> None:
    a = np.random.Generator(np.random.PCG64(0)).integers(-9, 10, (40, 20, 15, 7)).astype(float)
    stride = (2, 2) if kernel == (3, 3) else kernel
    padding = (1, 1) if kernel == (3, 3) else (0, 0)
    module = module_of(kind, a.shape, (kernel, stride, padding), adds=adds)
    check_against_torch(module, a, normal(1, *module.output.shape))


@KINDS
@SETTINGS
@given(windows(), COUNTS, COUNTS, SEEDS)
def test_gradient_is_the_finite_difference(
    kind: type, shape: Windows, n: int, c: int, seed: int
) -> None:
    size, *rest = shape
    # No two are equal, nor nearer than twice the step.
    a = np.random.Generator(np.random.PCG64(seed)).permutation(c * size[0] * size[1] * n) / 64.0
    a = a.reshape(c, *size, n)
    module = module_of(kind, a.shape, tuple(rest))
    gb = normal(seed + 1, *module.output.shape)

    def loss() -> float:
        return float((module.forward(a) * gb).sum())

    loss()
    found = module.backward(gb.copy())
    assert found is not None
    np.testing.assert_allclose(found.copy(), gradient_of(loss, a), rtol=0, atol=ABS * gb.size)


@KINDS
def test_gradient_of_the_output_is_left_alone(kind: type) -> None:
    module = module_of(kind, (2, 6, 6, 3), ((3, 3), (2, 2), (1, 1)))
    module.forward(normal(0, 2, 6, 6, 3))
    gb = normal(1, *module.output.shape)
    kept = gb.copy()
    module.backward(gb)
    np.testing.assert_array_equal(gb, kept)


@KINDS
def test_no_samples_are_pooled_to_none(kind: type) -> None:
    for kernel in ((2, 2), (4, 4)):
        module = module_of(kind, (2, 4, 4, 0), (kernel, kernel, (0, 0)))
        assert module.forward(np.empty((2, 4, 4, 0))).size == 0
        found = module.backward(np.empty(module.output.shape))
        assert found is not None
        assert found.size == 0


@KINDS
def test_nobody_s_gradient_is_not_computed(kind: type) -> None:
    module = module_of(kind, (1, 2, 2, 1), ((2, 2), (2, 2), (0, 0)))
    module.grad_input = None
    module.forward(np.ones((1, 2, 2, 1)))
    assert module.backward(np.ones((1, 1, 1, 1))) is None
