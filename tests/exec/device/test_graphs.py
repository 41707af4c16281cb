"""What is captured is not done, and done as often as it is launched."""

import numpy as np
import pytest

from exec.device.protocol import Device, Stream

SIZE = 1 << 14


def test_capturing_does_nothing_and_launching_does_it(device: Device, stream: Stream) -> None:
    a = device.upload(np.zeros(SIZE))
    ones = device.upload(np.ones(SIZE))
    add = stream.bind_kernel("accumulate", np.float64, (4,), (256,), a, ones, SIZE)
    graph = stream.capture(add)
    assert not device.read(a).any()
    for _ in range(3):
        graph.launch(stream)
    np.testing.assert_array_equal(device.read(a), np.full(SIZE, 3.0))


def test_a_graph_reads_what_memory_holds_when_it_is_launched(
    device: Device, stream: Stream
) -> None:
    host, back = device.pinned(4, np.float64), device.pinned(4, np.float64)
    a = device.empty(4, np.float64)
    calls = [stream.bind_copy(host, a), stream.bind_copy(a, back)]
    graph = stream.capture(lambda: [call() for call in calls])
    for value in (5.0, 6.0):
        host[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert back.tolist() == [value] * 4


def test_a_graph_holds_products_kernels_fills_and_copies(device: Device, stream: Stream) -> None:
    a = device.upload(np.full((8, 8), 2.0))
    b, c = device.upload(np.zeros((8, 8))), device.upload(np.zeros((8, 8)))
    calls = [
        stream.bind_fill(b, 1.0),
        stream.bind_product(a, b, c),
        stream.bind_kernel("scale", np.float64, (1,), (64,), c, 64, 0.5),
        stream.bind_copy(c, b),
    ]
    graph = stream.capture(lambda: [call() for call in calls])
    graph.launch(stream)
    graph.launch(stream)
    np.testing.assert_array_equal(device.read(b), np.full((8, 8), 8.0))


def test_a_graph_forks_to_another_stream_and_joins_it(device: Device) -> None:
    main, side = device.stream(), device.stream()
    a, b, total = (device.upload(np.zeros(SIZE)) for _ in range(3))
    ones = device.upload(np.ones(SIZE))

    def adding(stream: Stream, into: object, source: object) -> object:
        return stream.bind_kernel("accumulate", np.float64, (4,), (256,), into, source, SIZE)

    on_main, on_side = adding(main, a, ones), adding(side, b, ones)
    sum_a, sum_b = adding(main, total, a), adding(main, total, b)

    def body() -> None:
        side.wait(main.record())
        on_side()
        on_main()
        main.wait(side.record())
        sum_a()
        sum_b()

    graph = main.capture(body)
    side.synchronize()
    assert not device.read(b).any()
    for _ in range(3):
        graph.launch(main)
    np.testing.assert_array_equal(device.read(total), np.full(SIZE, 2.0 * (1 + 2 + 3)))
    on_side()  # the side stream is as it was
    np.testing.assert_array_equal(device.read(b), np.full(SIZE, 4.0))


def test_what_comes_after_a_launch_sees_what_it_did(device: Device) -> None:
    main, other = device.stream(), device.stream()
    a, b = device.upload(np.zeros(SIZE)), device.upload(np.zeros(SIZE))
    graph = main.capture(main.bind_fill(a, 7.0))
    add = other.bind_kernel("accumulate", np.float64, (4,), (256,), b, a, SIZE)
    graph.launch(main)
    other.wait(main.record())
    add()
    np.testing.assert_array_equal(device.read(b), np.full(SIZE, 7.0))


def test_an_error_in_a_capture_ends_it_and_the_stream_goes_on(
    device: Device, stream: Stream
) -> None:
    a = device.upload(np.zeros(4))
    fill = stream.bind_fill(a, 1.0)

    def body() -> None:
        fill()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stream.capture(body)
    assert device.read(a).tolist() == [0.0] * 4
    fill()
    assert device.read(a).tolist() == [1.0] * 4
    stream.capture(fill).launch(stream)


def test_a_stream_that_is_not_joined_is_refused(device: Device) -> None:
    main, side = device.stream(), device.stream()
    fill = side.bind_fill(device.upload(np.zeros(4)), 1.0)

    def body() -> None:
        side.wait(main.record())
        fill()

    with pytest.raises(RuntimeError):
        main.capture(body)
    fill()
    side.synchronize()
