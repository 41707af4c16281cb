"""Graphs of the emulated device: what is captured runs at each launch, and misuse is refused."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.device.emulated import EmulatedDevice
from exec.device.protocol import Stream
from tests.exec.device.small_programs import (
    NUM_STREAMS,
    Step,
    calls,
    check,
    enqueue,
    steps,
    upload,
)
from tests.exec.device.test_emulated_streams import open_emulated


@given(steps, st.integers(0, 1000), st.integers(0, 3))
def test_launches_do_what_was_captured_as_often(
    program: list[Step], seed: int, launches: int
) -> None:
    device = open_emulated(seed)
    streams, arrays = [device.stream() for _ in range(NUM_STREAMS)], upload(device)
    bound = list(calls(program, streams, arrays))

    def body() -> None:
        begin = streams[0].record()
        for other in streams[1:]:
            other.wait(begin)
        enqueue(bound, streams)
        for other in streams[1:]:
            streams[0].wait(other.record())

    graph = streams[0].capture(body)
    check(device, arrays, [])
    launching = device.stream()
    for _ in range(launches):
        graph.launch(launching)
    check(device, arrays, program * launches)


@pytest.mark.parametrize("seed", range(6))
def test_a_graph_is_ordered_with_the_stream_that_launches_it(seed: int) -> None:
    device = open_emulated(seed)
    first, second = device.stream(), device.stream()
    a, b = device.upload(np.zeros(4)), device.upload(np.zeros(4))
    add = second.bind_kernel("accumulate", np.float64, (1,), (4,), b, a, 4)

    def body() -> None:
        second.wait(first.record())
        add()
        first.wait(second.record())

    graph = first.capture(body)
    for value in (1, 2, 4):
        first.bind_fill(a, value)()
        graph.launch(first)
    first.bind_fill(a, 0)()
    assert device.read(b).tolist() == [7] * 4


@pytest.mark.parametrize("seed", range(6))
def test_launches_on_two_streams_follow_each_other(seed: int) -> None:
    device = open_emulated(seed)
    first, second = device.stream(), device.stream()
    a, b = device.upload(np.zeros(4)), device.upload(np.ones(4))
    add = first.bind_kernel("accumulate", np.float64, (1,), (4,), a, b, 4)
    double = first.bind_kernel("accumulate", np.float64, (1,), (4,), b, b, 4)
    graph = first.capture(lambda: (add(), double()))
    graph.launch(first)
    graph.launch(second)
    assert device.read(a).tolist() == [3] * 4


def test_streams_are_free_again_after_a_capture_that_failed() -> None:
    device = open_emulated()
    stream, array = device.stream(), device.upload(np.zeros(1))
    with pytest.raises(RuntimeError, match="must not synchronize"):
        stream.capture(stream.synchronize)
    stream.bind_fill(array, 5)()
    assert device.read(array).tolist() == [5]


Misuse = Callable[[EmulatedDevice, Stream, Stream], object]


def leave_a_stream(device: EmulatedDevice, stream: Stream, other: Stream) -> None:
    fill = other.bind_fill(device.wrap(np.zeros(1)), 0)
    other.wait(stream.record())
    fill()


@pytest.mark.parametrize(
    "misuse, complaint",
    [
        (lambda device, _, __: device.synchronize(), "must not synchronize the device"),
        (lambda device, _, __: device.read(device.wrap(np.zeros(1))), "must not synchronize"),
        (lambda device, _, __: device.upload(np.zeros(1)), "must not make an array"),
        (lambda device, _, __: device.empty(1, np.float64), "must not make an array"),
        (lambda _, stream, __: stream.record().synchronize(), "must not ask for an event"),
        (lambda _, __, other: other.capture(lambda: None), "must not begin another"),
        (lambda _, stream, other: stream.wait(other.record()), "from before it"),
        (leave_a_stream, "must wait for all streams"),
    ],
)
def test_what_cannot_be_captured_is_refused(misuse: Misuse, complaint: str) -> None:
    device = open_emulated()
    stream, other = device.stream(), device.stream()
    with pytest.raises(RuntimeError, match=complaint):
        stream.capture(lambda: misuse(device, stream, other))


def test_an_event_of_a_capture_cannot_be_waited_for_outside() -> None:
    device = open_emulated()
    stream = device.stream()
    events = []
    stream.capture(lambda: events.append(stream.record()))
    with pytest.raises(RuntimeError, match="of a capture that has ended"):
        stream.wait(events[0])
    with pytest.raises(RuntimeError, match="outside a capture"):
        events[0].synchronize()
