"""Softmax cross-entropy on the device, against the CPU's and the definition."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu.loss import Loss
from exec.nn.loss import SoftmaxCrossEntropy
from tests.exec.gpu.arrays import DTYPES, SEEDS, SETTINGS, Array, assert_within, normal, rounding


def by_definition(logits: Array, labels: Array, scale: float) -> tuple[float, Array]:
    """Return the loss and its gradient, by the module of the CPU in double precision."""
    targets = np.zeros(logits.shape)
    targets[labels, np.arange(len(labels))] = scale
    module = SoftmaxCrossEntropy(scale, targets)
    gradient = module.forward_backward(logits.astype(np.float64))
    return module.total, gradient


@DTYPES
@SETTINGS
@given(st.integers(1, 90), st.integers(0, 150), st.booleans(), st.integers(0, 4), SEEDS)
@example(3000, 2, True, 0, 5)
@example(1, 33, False, 0, 6)
def test_loss_and_gradient_are_the_definition(
    device: Device, dtype: type, classes: int, n: int, has_bias: bool, start: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    position, num = 3, n + 12
    scale = 1 / max(1, n)
    order = generator.permutation(num).astype(np.int32)
    labels = generator.integers(0, classes, num, np.int32)
    logits, bias = normal(seed, classes, n, dtype=dtype), normal(seed, classes, dtype=dtype)
    room = device.upload(logits)
    loss = Loss(
        device.stream(), room, device.upload(bias) if has_bias else None, device.upload(labels),
        device.upload(order), device.upload(np.array([position], np.int32)), start, scale,
    )  # fmt: skip
    loss.forward_backward()
    first = device.read(room)
    once = loss.total
    device.write(room, logits)
    loss.forward_backward()
    np.testing.assert_array_equal(device.read(room), first)
    assert loss.total == once + once

    own = labels[order[position + start : position + start + n]]
    whole = logits.astype(np.float64) + (bias[:, None] if has_bias else 0)
    total, gradient = by_definition(whole, own, scale)
    # The logits, of a few units, are rounded before the exponential makes it relative.
    roundings = rounding(dtype, classes + 30)
    assert_within(first, gradient, scale, roundings)
    assert abs(once - total) <= roundings * (1 + total)
    loss.total = -1.5
    assert loss.total == -1.5


@DTYPES
def test_large_logits_do_not_overflow(device: Device, dtype: type) -> None:
    logits = np.array([[1e4, -1e4], [0, 0], [-1e4, 1e4]], dtype)
    room, places = device.upload(logits), device.upload(np.arange(2, dtype=np.int32))
    loss = Loss(device.stream(), room, None, places, places, places, 0, 1.0)
    loss.forward_backward()
    np.testing.assert_array_equal(device.read(room), [[0, 0], [0, -1], [0, 1]])
    assert loss.total == 1e4


def test_a_graph_of_the_loss_can_be_launched_again(device: Device) -> None:
    stream, n = device.stream(), 70
    logits = normal(1, 4, n)
    room, places = device.upload(logits), device.upload(np.arange(n, dtype=np.int32) % 4)
    order = device.upload(np.arange(n, dtype=np.int32))
    position = device.upload(np.zeros(1, np.int32))
    loss = Loss(stream, room, None, places, order, position, 0, 0.5)
    graph = stream.capture(loss.forward_backward)
    totals = []
    for _ in range(3):
        device.write(room, logits)
        loss.total = 0.0
        graph.launch(stream)
        totals.append(loss.total)
    total, gradient = by_definition(logits, np.arange(n) % 4, 0.5)
    assert totals == [totals[0]] * 3
    np.testing.assert_allclose(totals[0], total, rtol=1e-13)
    np.testing.assert_allclose(device.read(room), gradient, atol=1e-13)
