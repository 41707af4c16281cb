"""Activations, the sum of branches and descent on the device."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exec.device.protocol import Device
from exec.gpu import activation
from exec.gpu.addition import add, pass_on
from exec.gpu.elementwise import scale
from exec.gpu.optimiser import sgd
from tests.exec.gpu.arrays import (
    ADDS,
    DTYPES,
    SEEDS,
    SETTINGS,
    Array,
    askew,
    assert_within,
    normal,
    rounding,
    unwritten,
)

OFFSETS = st.integers(0, 3)
KINDS: Any = st.sampled_from(["relu", "sigmoid"])


def by_definition(kind: str, a: Array) -> tuple[Array, Array]:
    """Return the function and its slope, in double precision."""
    a = a.astype(np.float64)
    if kind == "relu":
        return np.maximum(a, 0), np.where(a > 0, 1.0, 0.0)
    b = 1 / (1 + np.exp(-a))
    return b, b * (1 - b)


@DTYPES
@SETTINGS
@given(
    KINDS, st.integers(1, 5), st.integers(0, 3), st.integers(1, 70), OFFSETS, st.booleans(),
    st.booleans(), SEEDS,
)  # fmt: skip
def test_activations_are_the_definition(
    device: Device, dtype: type, kind: str, channels: int, outer: int, inner: int, offset: int,
    is_in_place: bool, has_bias: bool, seed: int,
) -> None:  # fmt: skip
    a = normal(seed, outer, channels, inner, dtype=dtype)
    bias = normal(seed + 1, channels, dtype=dtype)
    source = askew(device, a, offset)
    target = source if is_in_place else unwritten(device, *a.shape, dtype=dtype)
    given_bias = device.upload(bias) if has_bias else None
    getattr(activation, kind)(device.stream(), source, target, given_bias, inner)()
    before = a + bias[:, None] if has_bias else a
    expected, _ = by_definition(kind, before)
    assert_within(device.read(target), expected, np.maximum(1, np.abs(before)), rounding(dtype, 4))
    if not is_in_place:
        np.testing.assert_array_equal(device.read(source), a)


@DTYPES
def test_activations_of_large_and_of_no_numbers(device: Device, dtype: type) -> None:
    a = np.array([-1e30, -100, 0, 100, 1e30, np.nan], dtype)
    for kind, expected in (
        ("relu", [0, 0, 0, 100, dtype(1e30), np.nan]),
        ("sigmoid", [0, 0, 0.5, 1, 1, np.nan]),
    ):
        target = unwritten(device, 6, dtype=dtype)
        getattr(activation, kind)(device.stream(), device.upload(a), target)()
        np.testing.assert_allclose(device.read(target), expected, atol=1e-30)


@DTYPES
@ADDS
@SETTINGS
@given(
    KINDS,
    st.integers(1, 40),
    st.integers(0, 300) | st.sampled_from([4, 64, 1200]),
    OFFSETS,
    st.booleans(),
    SEEDS,
)
def test_gradients_are_the_definition(
    device: Device, dtype: type, adds: bool, kind: str, units: int, samples: int, offset: int,
    adds_bias: bool, seed: int,
) -> None:  # fmt: skip
    a, gb = (normal(seed + i, units, samples, dtype=dtype) for i in range(2))
    b = by_definition(kind, a)[0].astype(dtype)
    start, start_bias = (
        normal(seed + 2, units, samples, dtype=dtype),
        normal(seed, units, dtype=dtype),
    )
    slope = np.where(b > 0, 1.0, 0.0) if kind == "relu" else b.astype(np.float64) * (1 - b.astype(np.float64))  # fmt: skip
    share = gb * slope
    before, before_bias = start * float(adds), start_bias * float(adds_bias)
    output, stream = askew(device, b, offset), device.stream()

    def room() -> tuple[Any, Any]:
        """Return the gradients of the output and of the input: one where nothing is added."""
        gradient = device.upload(gb)
        return gradient, device.upload(start) if adds else gradient

    gradient, found = room()
    getattr(activation, f"{kind}_backward")(stream, output, gradient, found, adds=adds)()
    fused_gradient, fused = room()
    bias = device.upload(start_bias if adds_bias else np.full_like(start_bias, np.nan))
    getattr(activation, f"{kind}_backward_bias")(
        stream, output, fused_gradient, fused, bias, units, adds=adds, adds_bias=adds_bias
    )()
    size = np.abs(before) + np.abs(gb)
    for each in (found, fused):
        assert_within(device.read(each), before + share, size, rounding(dtype, 4))
    assert_within(
        device.read(bias), before_bias + share.sum(axis=1),
        np.abs(before_bias) + np.abs(gb).sum(axis=1), rounding(dtype, samples + 4),
    )  # fmt: skip


@DTYPES
@ADDS
@SETTINGS
@given(st.integers(0, 5000), OFFSETS, st.booleans(), SEEDS)
def test_branches_are_added_and_their_gradients_passed_on(
    device: Device, dtype: type, adds: bool, size: int, offset: int, is_in_place: bool, seed: int
) -> None:
    a, b = (normal(seed + i, size, dtype=dtype) for i in range(2))
    first, second = askew(device, a, offset), askew(device, b, offset)
    target = first if is_in_place else unwritten(device, size, dtype=dtype)
    add(device.stream(), first, second, target)()
    np.testing.assert_array_equal(device.read(target), a + b)
    goal = device.upload(a)
    pass_on(device.stream(), second, goal, adds=adds)()
    np.testing.assert_array_equal(device.read(goal), a + b if adds else b)
    scale(device.stream(), second, -0.25)()
    np.testing.assert_array_equal(device.read(second), -b / 4)


@DTYPES
@SETTINGS
@given(st.integers(0, 5000), OFFSETS, st.sampled_from([0.0, 0.9]), SEEDS)
def test_descent_is_the_definition(
    device: Device, dtype: type, size: int, offset: int, momentum: float, seed: int
) -> None:
    w, g, v = (normal(seed + i, size, dtype=dtype) for i in range(3))
    weights, gradient, velocity = (askew(device, each, offset) for each in (w, g, v))
    rate = 0.05
    sgd(device.stream(), weights, gradient, velocity if momentum else None, rate, momentum)()
    moved = momentum * v.astype(np.float64) + g
    size_of_step = np.abs(v) + np.abs(g)
    assert_within(
        device.read(weights), w - rate * moved, np.abs(w) + size_of_step, rounding(dtype, 4)
    )
    assert_within(device.read(velocity), moved if momentum else v, size_of_step, rounding(dtype, 3))
    np.testing.assert_array_equal(device.read(gradient), g)
