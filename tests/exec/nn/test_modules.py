"""The modules against finite differences, and at the ends of the number range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.nn.loss import SoftmaxCrossEntropy
from exec.nn.modules import Linear, Sigmoid
from tests.exec.nn.finite_differences import ABS, Array, gradient_of
from tests.exec.nn.plain_net import random_net

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
WIDTHS, SAMPLES, SEEDS = st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32)


def normal(seed: int, *shape: int) -> Array:
    """Return standard normal numbers."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def linear_of(k: int, m: int, n: int, seed: int, *, adds: bool = False) -> Linear:
    """Return a layer with random weights and room for everything."""
    weight = normal(seed, m, k)
    return Linear(
        weight, normal(seed + 1, m), np.zeros((m, k)), np.zeros(m), np.empty((m, n)),
        np.empty((k, n)), adds,
    )  # fmt: skip


@SETTINGS
@given(WIDTHS, WIDTHS, SAMPLES, SEEDS)
def test_linear_gradients_are_the_finite_differences(k: int, m: int, n: int, seed: int) -> None:
    module, a, direction = linear_of(k, m, n, seed), normal(seed + 2, k, n), normal(seed + 3, m, n)

    def f() -> float:
        return float((module.forward(a) * direction).sum())

    f()
    grad_input = module.backward(direction)
    assert module.bias is not None
    for found, x in (
        (grad_input, a),
        (module.grad_weight, module.weight),
        (module.grad_bias, module.bias),
    ):
        np.testing.assert_allclose(found, gradient_of(f, x), rtol=0, atol=ABS)


@SETTINGS
@given(WIDTHS, WIDTHS, SAMPLES, SEEDS)
def test_linear_that_adds_gives_the_sum_of_both_gradients(
    k: int, m: int, n: int, seed: int
) -> None:
    sets, adds = linear_of(k, m, n, seed), linear_of(k, m, n, seed, adds=True)
    a, gb = normal(seed + 2, k, n), normal(seed + 3, m, n)
    for module in (sets, adds):
        module.forward(a)
        module.backward(gb)
        module.backward(gb)
    # Both are sums of the same few products of numbers below 10, in orders of BLAS's choice.
    np.testing.assert_allclose(adds.grad_weight, 2 * sets.grad_weight, rtol=0, atol=ABS)
    np.testing.assert_allclose(adds.grad_bias, 2 * sets.grad_bias, rtol=0, atol=ABS)  # type: ignore[operator]  # not None


def test_linear_without_bias_or_input_gradient_is_the_product_alone() -> None:
    weight, a = normal(0, 3, 4), normal(1, 4, 2)
    module = Linear(weight, None, np.empty((3, 4)), None, np.empty((3, 2)))
    # Sums of four products of numbers below 4, in orders of BLAS's choice.
    np.testing.assert_allclose(module.forward(a), weight @ a, rtol=0, atol=4 * 16 * 2.3e-16)
    assert module.backward(normal(2, 3, 2)) is None


@SETTINGS
@given(WIDTHS, WIDTHS, st.integers(0, 5), st.booleans(), st.booleans(), SEEDS)
def test_linear_gives_its_input_s_gradient_in_either_order_and_adds_it(
    k: int, m: int, n: int, sample_major: bool, adds: bool, seed: int
) -> None:
    samples = normal(seed, n, k)
    a = samples.T if sample_major else normal(seed, k, n)
    weight, gb = normal(seed + 1, m, k), normal(seed + 2, m, n)
    place = np.full_like(samples if sample_major else a, 0.5)
    module = Linear(
        weight, None, np.empty((m, k)), None, np.empty((m, n)), place,
        sample_major=sample_major, adds_input=adds,
    )  # fmt: skip
    # Sums of at most six products of numbers below 6, in an order of BLAS's own.
    np.testing.assert_allclose(module.forward(a), weight @ a, rtol=0, atol=1e-13)
    for _ in range(2):  # the second time on what the first has bound
        place.fill(0.5)
        found = module.backward(gb)
        assert found is place
        expected = weight.T @ gb + 0.5 * adds
        np.testing.assert_allclose(
            found, expected.T if sample_major else expected, rtol=0, atol=1e-13
        )


@SETTINGS
@given(WIDTHS, SAMPLES, SEEDS)
def test_sigmoid_gradient_is_the_finite_difference(m: int, n: int, seed: int) -> None:
    module, a, direction = Sigmoid(np.empty((m, n))), normal(seed, m, n), normal(seed + 1, m, n)

    def f() -> float:
        return float((module.forward(a.copy()) * direction).sum())

    f()
    found = module.backward(direction.copy())
    np.testing.assert_allclose(found, gradient_of(f, a), rtol=0, atol=ABS)


@SETTINGS
@given(WIDTHS, SAMPLES, SEEDS)
def test_sigmoid_is_one_over_one_plus_exp(m: int, n: int, seed: int) -> None:
    a = normal(seed, m, n)
    # tanh is good to 2 ulp, and (1 + tanh) / 2 loses the bits that cancel: absolute, not relative.
    np.testing.assert_allclose(
        Sigmoid(np.empty((m, n))).forward(a.copy()), 1 / (1 + np.exp(-a)), rtol=0, atol=4 * 2.3e-16
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_saturates_without_a_warning(dtype: type[np.floating]) -> None:
    with np.errstate(all="raise", under="ignore"):
        module = Sigmoid(np.empty((1, 4), dtype))
        out = module.forward(np.array([[-1e4, 1e4, -np.inf, np.inf]], dtype))
        assert out.tolist() == [[0.0, 1.0, 0.0, 1.0]]
        assert module.backward(np.ones((1, 4), dtype)).tolist() == [[0.0] * 4]


def loss_of(labels: list[int], classes: int, scale: float) -> SoftmaxCrossEntropy:
    """Return the loss of ``labels``."""
    targets = np.zeros((classes, len(labels)))
    targets[labels, np.arange(len(labels))] = scale
    return SoftmaxCrossEntropy(scale, targets)


@SETTINGS
@given(st.integers(2, 6), st.lists(st.integers(0, 1), min_size=1, max_size=5), SEEDS)
def test_loss_is_minus_the_log_of_the_label_s_probability(
    classes: int, labels: list[int], seed: int
) -> None:
    logits = normal(seed, classes, len(labels))
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    expected = -sum(np.log(p[label, i]) for i, label in enumerate(labels)) / 8
    loss = loss_of(labels, classes, 1 / 8)
    loss.forward_backward(logits)
    # Logits below 5 in size, at most 6 classes and 5 samples: fewer than 60 roundings of numbers
    # below 10, each of 1.1e-16 relative: 7e-14 at the very most.
    assert loss.total == pytest.approx(expected, rel=0, abs=7e-14)


@SETTINGS
@given(st.integers(2, 6), st.lists(st.integers(0, 1), min_size=1, max_size=5), SEEDS)
def test_loss_gradient_is_the_finite_difference(classes: int, labels: list[int], seed: int) -> None:
    logits, loss = normal(seed, classes, len(labels)), loss_of(labels, classes, 1 / 8)

    def f() -> float:
        loss.total = 0.0
        loss.forward_backward(logits.copy())
        return loss.total

    found = loss.forward_backward(logits.copy())
    np.testing.assert_allclose(found, gradient_of(f, logits), rtol=0, atol=ABS)
    # Probabilities add to one, so the gradient of each sample to zero: 6 roundings of 1/8.
    np.testing.assert_allclose(found.sum(axis=0), 0, rtol=0, atol=6 * 2.3e-16 / 8)


def test_loss_of_huge_logits_is_finite_and_right() -> None:
    with np.errstate(all="raise", under="ignore"):
        loss = loss_of([0, 1], 2, 1.0)
        gradient = loss.forward_backward(np.array([[1e4, 1e4], [-1e4, -1e4]]))
    # The first sample is certain and right; the second is certain and wrong by 2e4 nats.
    assert loss.total == 2e4
    assert gradient.tolist() == [[0.0, 1.0], [0.0, -1.0]]


@pytest.mark.parametrize("size", [39.0, 41.0, 700.0])
def test_large_logits_give_what_shifted_ones_do(size: float) -> None:
    logits = size * np.array([[1.0, -1.0, 0.5], [0.25, 0.0, -0.75], [-1.0, 1.0, 0.5]])
    label = [0, 0, 2]
    shifted = logits - logits.max(axis=0)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=0)
    expected = -(shifted[label, range(3)] - np.log(np.exp(shifted).sum(axis=0))).sum() / 4
    loss = loss_of(label, 3, 1 / 4)
    gradient = loss.forward_backward(logits.copy())
    # Logits below 1024 in size are rounded by at most 1.2e-13, in a dozen sums.
    assert loss.total == pytest.approx(expected, rel=0, abs=12 * 1.2e-13)
    onehot = np.zeros((3, 3))
    onehot[label, range(3)] = 1
    np.testing.assert_allclose(gradient, (p - onehot) / 4, rtol=0, atol=12 * 1.2e-13)


def test_loss_does_not_depend_on_when_it_is_looked_at() -> None:
    batches = [normal(seed, 3, 5) for seed in range(40)]
    looked, waited = (loss_of([0, 1, 2, 0, 1], 3, 1 / 5) for _ in range(2))
    for place, logits in enumerate(batches):
        looked.forward_backward(logits.copy())
        waited.forward_backward(logits.copy())
        if place % 3 == 0:
            looked.total = looked.total  # as a checkpoint does, and a resumed training
    assert looked.total == waited.total


def test_logits_that_are_no_numbers_show_in_the_loss() -> None:
    loss = loss_of([0, 1], 2, 1.0)
    with np.errstate(invalid="ignore"):
        loss.forward_backward(np.array([[1.0, np.nan], [0.5, 0.5]]))
    assert np.isnan(loss.total)


def test_loss_adds_up_over_batches() -> None:
    loss = loss_of([0], 2, 1.0)
    for _ in range(3):
        loss.forward_backward(np.zeros((2, 1)))
    # Three times log 2, each rounded once and added twice.
    assert loss.total == pytest.approx(3 * np.log(2), rel=4 * 2.3e-16, abs=0)


@SETTINGS
@given(st.lists(WIDTHS, min_size=1, max_size=4), st.integers(2, 5), SAMPLES, SEEDS)
def test_whole_net_s_gradients_are_the_finite_differences(
    widths: list[int], classes: int, samples: int, seed: int
) -> None:
    net = random_net((*widths, classes), samples, seed)
    net.forward_backward()
    found = [g.copy() for g in (*net.grad_weights, *net.grad_biases)]
    for gradient, parameter in zip(found, (*net.weights, *net.biases), strict=True):
        np.testing.assert_allclose(
            gradient, gradient_of(net.forward_backward, parameter), rtol=0, atol=ABS
        )


def test_empty_microbatch_adds_nothing() -> None:
    net = random_net((4, 3, 2), 1, 0)
    empty = np.empty((4, 0))
    linear = Linear(
        net.weights[0], net.biases[0], net.grad_weights[0], net.grad_biases[0], np.empty((3, 0))
    )
    sigmoid, loss = Sigmoid(np.empty((3, 0))), SoftmaxCrossEntropy(1.0, np.empty((3, 0)))
    gb = loss.forward_backward(sigmoid.forward(linear.forward(empty)))
    linear.backward(sigmoid.backward(gb))
    assert loss.total == 0.0
    assert not net.grad_weights[0].any()
    assert not net.grad_biases[0].any()
