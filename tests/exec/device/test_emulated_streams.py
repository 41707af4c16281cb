"""Streams that do nothing until they must, then in any order that events allow."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.device.emulated import EmulatedDevice
from exec.device.emulated_kernels import KERNELS
from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError
from tests.exec.device.small_programs import (
    NUM_STREAMS,
    Step,
    calls,
    check,
    enqueue,
    steps,
    upload,
)

SEEDS = range(12)


def open_emulated(seed: int = 0, index: int = 0, *, is_tf32: bool = False) -> EmulatedDevice:
    device = open_device(DeviceKind.EMULATED, index, seed=seed, is_tf32=is_tf32, sources=KERNELS)
    assert isinstance(device, EmulatedDevice)
    return device


@given(steps, st.integers(0, 1000))
def test_results_are_those_of_the_order_of_giving_whatever_the_seed(
    program: list[Step], seed: int
) -> None:
    device = open_emulated(seed)
    streams, arrays = [device.stream() for _ in range(NUM_STREAMS)], upload(device)
    enqueue(list(calls(program, streams, arrays)), streams)
    check(device, arrays, program)


def is_right(program: list[Step], seed: int, dropped: int) -> bool:
    device = open_emulated(seed)
    streams, arrays = [device.stream() for _ in range(NUM_STREAMS)], upload(device)
    enqueue(list(calls(program, streams, arrays)), streams, dropped)
    try:
        check(device, arrays, program)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    "program",
    [
        [Step(0, 0, None, 9), Step(1, 1, 0, 0)],  # read before it was written
        [Step(0, 1, 0, 0), Step(1, 0, None, 9)],  # written before it was read
        [Step(0, 0, None, 9), Step(1, 0, None, 8)],  # written in the other order
    ],
)
def test_a_missing_wait_is_found_by_some_seed(program: list[Step]) -> None:
    assert all(is_right(program, seed, dropped=-1) for seed in SEEDS)
    assert not all(is_right(program, seed, dropped=0) for seed in SEEDS)


def test_nothing_runs_before_it_is_asked_for() -> None:
    device = open_emulated()
    stream = device.stream()
    host = device.pinned(4, np.float64)
    array = device.empty(4, np.float64)
    copy = stream.bind_copy(host, array)
    host[:] = 1
    copy()
    host[:] = 2  # too early: the copy has not been made
    assert device.read(array).tolist() == [2, 2, 2, 2]


def test_asking_for_an_event_again_and_again_gets_there() -> None:
    for seed in SEEDS:
        device = open_emulated(seed)
        stream, other = device.stream(), device.stream()
        array = device.upload(np.zeros(1))
        fill = stream.bind_fill(array, 1)
        for _ in range(40):
            fill()
        other.wait(stream.record())
        event = other.record()
        tries = sum(1 for _ in iter(event.is_done, True))
        assert 0 < tries < 100


def test_what_was_made_holds_no_numbers() -> None:
    device = open_emulated()
    assert np.isnan(device.read(device.empty(3, np.float32))).all()
    assert (device.read(device.empty(3, np.int32)) == -1).all()
    assert np.isnan(device.pinned(3, np.float64)).all()


def test_copies_refuse_host_memory_that_is_not_pinned() -> None:
    device = open_emulated()
    stream, array = device.stream(), device.empty(4, np.float64)
    pinned = device.pinned(8, np.float64)
    stream.bind_copy(pinned[2:6], array)
    for host in (np.zeros(4), pinned[::2]):
        with pytest.raises(ValueError, match="must be pinned and contiguous"):
            stream.bind_copy(host, array)
    with pytest.raises(ValueError, match="target must be 8 of float64"):
        stream.bind_copy(pinned, array)


def test_a_kernel_that_writes_outside_its_array_is_named() -> None:
    device = open_emulated()
    array = device.upload(np.zeros(4))
    device.stream().bind_kernel("fill", np.float64, (1,), (8,), array, 5, 1.0)()
    with pytest.raises(ValueError, match="kernel fill must not write outside argument 0"):
        device.synchronize()
    # As on a GPU, the device is lost.
    with pytest.raises(ValueError, match="kernel fill"):
        device.empty(1, np.float64)


def test_timed_events_are_in_order_and_others_have_no_time() -> None:
    device = open_emulated()
    stream = device.stream()
    first, second, other = (
        stream.record(is_timed=True),
        stream.record(is_timed=True),
        stream.record(),
    )
    with pytest.raises(RuntimeError, match="timed and done"):
        device.elapsed_s(first, second)
    other.synchronize()
    assert device.elapsed_s(first, second) >= 0
    with pytest.raises(RuntimeError, match="timed and done"):
        device.elapsed_s(first, other)


def test_wrapped_memory_is_the_hosts() -> None:
    device = open_emulated()
    host = np.zeros(3)
    device.stream().bind_fill(device.wrap(host), 4)()
    device.synchronize()
    assert host.tolist() == [4, 4, 4]


def test_a_wait_ends_when_the_job_fails() -> None:
    waiting, other = open_emulated(index=0), open_emulated(index=1)

    def join() -> None:
        with pytest.raises(DeviceError, match="rank 1 has failed"):
            waiting.join_group(b"a group that nobody else joins", 0, 2)
        joined.append(True)

    joined: list[bool] = []
    thread = threading.Thread(target=join)
    thread.start()
    waiting.fail("rank 1 has failed")
    thread.join()
    assert joined
    other.synchronize()

    def look() -> None:
        raise DeviceError("the transport says so")

    other.watch(look)
    with pytest.raises(DeviceError, match="the transport says so"):
        other.join_group(b"another group", 0, 2)


def test_a_closed_device_says_so() -> None:
    device = open_emulated()
    stream, array = device.stream(), device.upload(np.zeros(1))
    fill = stream.bind_fill(array, 1)
    device.close()
    with pytest.raises(DeviceError, match="must be open"):
        fill()


@pytest.mark.parametrize("left_transposed", [False, True])
@pytest.mark.parametrize("right_transposed", [False, True])
def test_products_are_the_definition(left_transposed: bool, right_transposed: bool) -> None:
    device = open_emulated()
    draw = np.random.default_rng(0)
    a, b, c = (draw.standard_normal(shape) for shape in [(3, 4), (4, 5), (3, 5)])
    left = device.upload(a.T.copy()).T if left_transposed else device.upload(a)
    right = device.upload(b.T.copy()).T if right_transposed else device.upload(b)
    result, fresh = device.upload(c), device.empty(15, np.float64).reshape(3, 5)
    stream = device.stream()
    stream.bind_product(left, right, result, alpha=2, beta=0.5)()
    stream.bind_product(left, right, fresh)()
    np.testing.assert_allclose(device.read(result), 2 * a @ b + 0.5 * c, rtol=1e-14)
    np.testing.assert_allclose(device.read(fresh), a @ b, rtol=1e-14)


def test_products_of_parts_of_matrices_leave_the_rest() -> None:
    device = open_emulated()
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((3, 7)), draw.standard_normal((6, 9))
    whole = device.upload(np.full((3, 8), -1.0))
    result = whole.reshape(-1)[:15].reshape(3, 5)
    left = device.upload(a).reshape(-1)[:12].reshape(3, 4)
    right = device.upload(b).reshape(-1)[:20].reshape(4, 5)
    device.stream().bind_product(left, right, result, leading=(7, 9, 8))()
    expected = np.full((3, 8), -1.0)
    expected[:, :5] = a[:, :4] @ b[:4, :5]
    np.testing.assert_allclose(device.read(whole), expected, rtol=1e-14)


def test_tf32_rounds_the_factors_of_float32_only() -> None:
    numbers = np.array([1 + 2**-10 + 2**-11, 1 + 2**-11, -1 - 2**-12, np.inf, 2.0**-130])
    rounded = np.array([1 + 2**-9, 1, -1, np.inf, 2.0**-130])
    for dtype, expected in [(np.float32, rounded), (np.float64, numbers)]:
        device = open_emulated(is_tf32=True)
        column = device.upload(numbers.astype(dtype).reshape(-1, 1))
        result = device.empty(5, dtype).reshape(5, 1)
        device.stream().bind_product(column, device.upload(np.ones((1, 1), dtype)), result)()
        np.testing.assert_array_equal(device.read(result).ravel(), expected)
