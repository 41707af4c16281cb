"""Dense layers on the device: products, biases, and our own product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu import linear
from exec.gpu.calls import in_turn
from exec.gpu.product import bind_own_product
from tests.exec.gpu.arrays import (
    ADDS,
    DTYPES,
    LENGTHS,
    SEEDS,
    SETTINGS,
    Array,
    askew,
    assert_within,
    normal,
    rounding,
    unwritten,
)


def exact(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the product, and that of the magnitudes."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a @ b, np.abs(a) @ np.abs(b)


@DTYPES
@ADDS
@SETTINGS
@given(LENGTHS, LENGTHS, LENGTHS, st.booleans(), st.booleans(), SEEDS)
def test_products_are_the_definition(
    device: Device, dtype: type, adds: bool, units: int, inputs: int, samples: int,
    is_transposed: bool, is_sample_major: bool, seed: int,
) -> None:  # fmt: skip
    stream = device.stream()
    weight = normal(seed, units, inputs, dtype=dtype)
    a = normal(seed + 1, inputs, samples, dtype=dtype)
    gb = normal(seed + 2, units, samples, dtype=dtype)
    start = {
        "weight": normal(seed + 3, units, inputs, dtype=dtype),
        "input": normal(seed + 4, *((samples, inputs) if is_sample_major else (inputs, samples)), dtype=dtype),
        "bias": normal(seed + 5, units, dtype=dtype),
    }  # fmt: skip
    room = {
        name: device.upload(each if adds else np.full_like(each, np.nan))
        for name, each in start.items()
    }
    on_device = device.upload(np.ascontiguousarray(a.T)).T if is_transposed else device.upload(a)
    matrix, gradient = device.upload(weight), device.upload(gb)
    output = unwritten(device, units, samples, dtype=dtype)
    in_turn(
        linear.forward(stream, matrix, on_device, output),
        linear.backward_weight(stream, gradient, on_device, room["weight"], adds=adds),
        linear.backward_input(
            stream, matrix, gradient, room["input"], adds=adds, sample_major=is_sample_major
        ),
        linear.backward_bias(stream, gradient, room["bias"], adds=adds),
    )()
    grad_input = exact(weight.T, gb)
    if is_sample_major:
        grad_input = grad_input[0].T, grad_input[1].T
    product, size = exact(weight, a)
    assert_within(device.read(output), product, size, rounding(dtype, inputs + 1))
    expected = {
        "weight": (*exact(gb, a.T), samples),
        "input": (*grad_input, units),
        "bias": (*(each[:, 0] for each in exact(gb, np.ones((samples, 1)))), samples),
    }
    for name, (value, magnitude, length) in expected.items():
        before = start[name].astype(np.float64) * adds
        assert_within(
            device.read(room[name]),
            before + value,
            np.abs(before) + magnitude,
            rounding(dtype, length + 2),
        )


@DTYPES
@SETTINGS
@given(
    st.tuples(LENGTHS, st.integers(0, 300), LENGTHS),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(1.0, 0.0), (1.0, 1.0), (-0.5, 2.0)]),
    st.tuples(*[st.integers(0, 3)] * 3),
    SEEDS,
)
def test_own_product_is_the_definition(
    device: Device, dtype: type, lengths: tuple[int, int, int], a_transposed: bool,
    b_transposed: bool, factors: tuple[float, float], gaps: tuple[int, int, int], seed: int,
) -> None:  # fmt: skip
    (m, k, n), (alpha, beta), stream = lengths, factors, device.stream()
    shapes = [(k, m) if a_transposed else (m, k), (n, k) if b_transposed else (k, n), (m, n)]
    # Each matrix is the left part of a wider one, whose rest must stay as it is.
    whole = [
        normal(seed + i, rows, columns + gap, dtype=dtype)
        for i, ((rows, columns), gap) in enumerate(zip(shapes, gaps, strict=True))
    ]
    parts = [each[:, : shape[1]] for each, shape in zip(whole, shapes, strict=True)]
    a, b = (
        part.T if turned else part for part, turned in zip(parts[:2], (a_transposed, b_transposed), strict=True)
    )  # fmt: skip
    sent = [each.copy() for each in whole]
    if beta == 0:
        sent[2][:, :n] = np.nan
    rooms = [device.upload(each) for each in sent]
    views = [
        room.reshape(-1)[: shape[0] * shape[1]].reshape(*shape)
        for room, shape in zip(rooms, shapes, strict=True)
    ]
    leading = tuple(each.shape[1] for each in whole)
    bind_own_product(
        stream, views[0].T if a_transposed else views[0], views[1].T if b_transposed else views[1],
        views[2], alpha=alpha, beta=beta, leading=leading if any(gaps) else None,
    )()  # fmt: skip
    product, magnitude = exact(a, b)
    before = parts[2].astype(np.float64)
    found = device.read(rooms[2])
    assert_within(
        found[:, :n],
        alpha * product + beta * before,
        np.abs(alpha) * magnitude + np.abs(beta * before),
        rounding(dtype, k + 3),
    )
    np.testing.assert_array_equal(found[:, n:], whole[2][:, n:])


@DTYPES
def test_own_product_of_many_tiles_uses_large_ones_and_repeats_its_bits(
    device: Device, dtype: type
) -> None:
    stream, size = device.stream(), 64 * 2 + 3
    columns = 64 * device.num_multiprocessors // 2 + 1
    a = normal(1, 20, size, dtype=dtype)
    b = normal(2, 20, columns, dtype=dtype)
    sides = [device.upload(a).T, device.upload(b)]
    found = []
    for _ in range(2):
        c = unwritten(device, size, columns, dtype=dtype)
        bind_own_product(stream, *sides, c)()
        found.append(device.read(c))
    np.testing.assert_array_equal(*found)
    product, magnitude = exact(a.T, b)
    assert_within(found[0], product, magnitude, rounding(dtype, 21))


def test_own_product_refuses_shapes_that_do_not_fit(device: Device) -> None:
    a, b = (device.upload(np.zeros((2, 3))) for _ in range(2))
    with pytest.raises(ValueError, match="shapes must be those of a product"):
        bind_own_product(device.stream(), a, b, b)
    with pytest.raises(ValueError, match="c must not be transposed"):
        bind_own_product(device.stream(), a.T, b, device.upload(np.zeros((3, 3))).T)


@DTYPES
@SETTINGS
@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 70), st.integers(0, 3), SEEDS)
def test_a_bias_goes_to_its_channel(
    device: Device, dtype: type, channels: int, outer: int, inner: int, offset: int, seed: int
) -> None:
    a, bias = normal(seed, outer, channels, inner, dtype=dtype), normal(seed, channels, dtype=dtype)
    room = askew(device, a, offset)
    linear.add_bias(device.stream(), room.reshape(-1), device.upload(bias), inner)()
    np.testing.assert_array_equal(device.read(room), a + bias[:, None])


@DTYPES
def test_row_sums_repeat_their_bits(device: Device, dtype: type) -> None:
    gb = device.upload(normal(3, 5, 1000, dtype=dtype))
    found = []
    for _ in range(2):
        sums = unwritten(device, 5, dtype=dtype)
        linear.backward_bias(device.stream(), gb, sums, adds=False)()
        found.append(device.read(sums))
    np.testing.assert_array_equal(*found)
