"""Batch normalisation against PyTorch, whole and with its sums added over two halves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.scratch import BLOCK, normalisation_scratch
from exec.nn.normalisation import BatchNorm2d, normalise
from tests.exec.nn.finite_differences import ABS, gradient_of
from tests.exec.nn.images import Array, normal, samples_first, samples_last

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
SIDES, SEEDS = st.integers(1, 5), st.integers(0, 2**32)

# Fewer than 1000 roundings of numbers below 100, divided by variances that the tests keep above
# 1e-2 (or by 1e-5 for single pixels, whose centred values are exactly zero).
ROUNDING = 1e-9


def module_of(
    shape: tuple[int, ...], count: int, seed: int, *, adds: bool = False, dtype: type = np.float64
) -> BatchNorm2d:
    """Return a module whose gradients start at 0.5, in scratch that holds nothing usable."""
    channels, height, width, samples = shape
    vectors = normal(seed, 3, channels).astype(dtype)
    return BatchNorm2d(
        vectors[0], vectors[1], *np.full((2, channels), 0.5, dtype), vectors[2],
        np.full(channels, 2.0, dtype), np.empty(shape, dtype), *np.full((2, 2, channels), np.nan, dtype),
        np.full(normalisation_scratch(samples, channels, height, width), np.nan, dtype),
        count, grad_input=np.full(shape, 0.5, dtype), adds=adds, adds_input=adds,
    )  # fmt: skip


def step(modules: list[BatchNorm2d], inputs: list[Array], gradients: list[Array]) -> None:
    """Take a step in which ``modules`` share their statistics."""
    for module, a in zip(modules, inputs, strict=True):
        module.forward_sums(a)
    share(modules)
    for module, a in zip(modules, inputs, strict=True):
        module.forward(a)
    for module, gb in zip(modules, gradients, strict=True):
        module.backward_sums(gb)
    share(modules)
    for module, gb in zip(modules, gradients, strict=True):
        module.backward(gb)


def share(modules: list[BatchNorm2d]) -> None:
    """Give every module the sum of all their sums."""
    total = np.sum([module.sums for module in modules], axis=0)
    for module in modules:
        module.sums[...] = total


@SETTINGS
@given(SIDES, SIDES, SIDES, st.integers(2, 5), st.integers(0, 5), st.booleans(), SEEDS)
def test_halves_that_share_their_sums_follow_torch(
    c: int, h: int, w: int, n: int, cut: int, adds: bool, seed: int
) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: a development oracle")
    a, gb = 3 + 2 * normal(seed, c, h, w, n), normal(seed + 1, c, h, w, n)
    a[..., 0] += 1  # a spread, whatever was drawn
    halves = [slice(0, min(cut, n)), slice(min(cut, n), n)]
    inputs, gradients = ([np.ascontiguousarray(x[..., half]) for half in halves] for x in (a, gb))
    modules = [module_of(x.shape, h * w * n, seed + 2, adds=adds) for x in inputs]
    theirs = torch.nn.BatchNorm2d(c, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight[:], theirs.bias[:] = (
            torch.tensor(x) for x in (modules[0].gamma, modules[0].beta)
        )
        theirs.running_mean[:], theirs.running_var[:] = torch.tensor(modules[0].running_mean), 2.0
    x = torch.tensor(samples_first(a), requires_grad=True)
    expected = theirs(x)
    expected.backward(torch.tensor(samples_first(gb)))
    step(modules, inputs, gradients)
    start = 0.5 * adds
    for found, wanted in (
        (np.concatenate([m.output for m in modules], -1), samples_last(expected.detach().numpy())),
        (np.concatenate([m.grad_input for m in modules], -1), samples_last(x.grad.numpy()) + start),
        (sum(m.grad_gamma for m in modules), theirs.weight.grad.numpy() + 2 * start),
        (sum(m.grad_beta for m in modules), theirs.bias.grad.numpy() + 2 * start),
        *((m.running_mean, theirs.running_mean.numpy()) for m in modules),
        *((m.running_var, theirs.running_var.numpy()) for m in modules),
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING)


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 3), SEEDS)
def test_gradients_are_the_finite_differences(c: int, h: int, n: int, seed: int) -> None:
    a, gb = normal(seed, c, h, 2, n), normal(seed + 1, c, h, 2, n)
    a[:, 0, 0, 0] += 3  # a spread, whatever was drawn: derivatives of the inverse stay small
    module = module_of(a.shape, h * 2 * n, seed + 2)

    def loss() -> float:
        module.forward_sums(a)
        return float((module.forward(a) * gb).sum())

    loss()
    module.backward_sums(gb)
    module.backward(gb)
    for found, x in ((module.grad_gamma, module.gamma), (module.grad_beta, module.beta), (module.grad_input, a)):  # fmt: skip
        assert found is not None
        np.testing.assert_allclose(found, gradient_of(loss, x), rtol=0, atol=10 * ABS)


@pytest.mark.parametrize("shape", [(3, 150, 100, 3), (700, 5, 5, 3)])
def test_blocks_make_no_difference(shape: tuple[int, ...]) -> None:
    assert np.prod(shape) > BLOCK
    a, gb = normal(0, *shape), normal(1, *shape)
    module = module_of(shape, a[0].size, 2)
    step([module], [a], [gb])
    mean, var = (f(axis=(1, 2, 3), keepdims=True) for f in (a.mean, a.var))
    xhat = (a - mean) / np.sqrt(var + module.eps)
    gamma, beta = (x[:, None, None, None] for x in (module.gamma, module.beta))
    np.testing.assert_allclose(module.output, gamma * xhat + beta, rtol=0, atol=ROUNDING)
    gb_mean, product_mean = (x.mean(axis=(1, 2, 3), keepdims=True) for x in (gb, gb * xhat))
    expected = gamma / np.sqrt(var + module.eps) * (gb - gb_mean - xhat * product_mean)
    assert module.grad_input is not None
    np.testing.assert_allclose(module.grad_input, expected, rtol=0, atol=ROUNDING)


def test_sums_about_the_running_mean_keep_their_digits_in_float32() -> None:
    # A mean a thousand deviations from zero; the running mean is near it, as it is after a while.
    a = (1000 + normal(0, 2, 8, 8, 16)).astype(np.float32)
    module = module_of(a.shape, a[0].size, 1, dtype=np.float32)
    module.running_mean[:] = 1000.5
    module.forward_sums(a)
    exact = a.astype(np.float64) - 1000.5
    # Inputs near 1000 are whole multiples of 6e-5, centred without error; 1024 terms follow.
    np.testing.assert_allclose(module.sums[0], exact.sum(axis=(1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(module.sums[1], (exact**2).sum(axis=(1, 2, 3)), rtol=1e-4)


def test_single_value_divides_by_no_zero() -> None:
    module = module_of((2, 1, 1, 1), 1, 0)
    a = normal(1, 2, 1, 1, 1)
    with np.errstate(all="raise"):
        step([module], [a], [normal(2, 2, 1, 1, 1)])
    # The mean is good to 5e-16 (it is below 4), and 1 / sqrt(eps) is 316, times gamma below 4.
    np.testing.assert_allclose(module.output[:, 0, 0, 0], module.beta, rtol=0, atol=1e-12)
    # A variance of zero: 0.9 of the 2 that was there.
    np.testing.assert_allclose(module.running_var, 1.8, rtol=1e-15)


def test_no_samples_have_sums_of_zero() -> None:
    module = module_of((2, 3, 3, 0), 9, 0)
    none = np.empty((2, 3, 3, 0))
    module.forward_sums(none)
    assert not module.sums.any()
    module.sums[...] = [
        [9.0, 9.0],
        [18.0, 18.0],
    ]  # another rank's: variance 1 about a mean of r + 1
    reference = module.running_mean.copy()
    module.forward(none)
    np.testing.assert_allclose(module.saved[0], reference + 1, rtol=1e-15)
    module.backward_sums(none)
    assert not module.sums.any()
    assert not module.grad_gamma.any()
    module.backward(none)


@SETTINGS
@given(SIDES, SIDES, SIDES, SEEDS)
def test_trained_network_normalises_by_given_statistics(c: int, h: int, n: int, seed: int) -> None:
    a, (gamma, beta, mean) = normal(seed, c, h, 3, n), normal(seed + 1, 3, c)
    var = normal(seed + 2, c) ** 2 + 0.1
    columns = (x[:, None, None, None] for x in (gamma, beta, mean, var))
    g, b, m, v = columns
    found = normalise(a, gamma, beta, mean, var, 1e-5, np.empty_like(a))
    np.testing.assert_allclose(found, g * (a - m) / np.sqrt(v + 1e-5) + b, rtol=0, atol=1e-12)


def test_statistics_of_ones_own_samples_lose_no_digits_far_from_the_running_mean() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    a = (1000.0 + generator.standard_normal((2, 4, 4, 8))).astype(np.float32)
    errors = []
    for is_shared in (True, False):
        arrays = [np.zeros(2, np.float32) for _ in range(6)]
        module = BatchNorm2d(
            *arrays, np.empty_like(a), np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32),
            np.empty(a.size, np.float32), a[0].size, is_shared=is_shared,
        )  # fmt: skip
        module.forward_sums(a)
        module.forward(a)
        true = 1.0 / np.sqrt(a.astype(float).reshape(2, -1).var(axis=1) + module.eps)
        errors.append(np.abs(module.saved[1] / true - 1.0).max())
    assert errors[1] < 1e-5 < errors[0]
