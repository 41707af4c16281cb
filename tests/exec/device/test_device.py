"""What every device must do: one suite, run on the emulated one and on a GPU."""

import numpy as np
import pytest

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Stream

LARGE = 1 << 16


def numbers(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def accumulate(stream: Stream, into: DeviceArray, source: DeviceArray) -> object:
    return stream.bind_kernel("accumulate", into.dtype, (8,), (256,), into, source, into.size)


def test_what_is_uploaded_is_read_back(device: Device) -> None:
    for host in (numbers(3, 5), numbers(7, dtype=np.float32), np.arange(6, dtype=np.int32)):
        array = device.upload(host)
        assert (array.shape, array.dtype) == (host.shape, host.dtype)
        np.testing.assert_array_equal(device.read(array), host)


def test_arrays_without_elements_are_uploaded_written_and_read(device: Device) -> None:
    array = device.upload(np.zeros((0, 3)))
    device.write(array, np.zeros((0, 3)))
    assert device.read(array).shape == (0, 3)


def test_a_transposed_array_is_read_as_it_is_meant(device: Device) -> None:
    host = numbers(3, 5)
    np.testing.assert_array_equal(device.read(device.upload(host).T), host.T)


def test_rows_share_the_memory_of_the_whole(device: Device) -> None:
    whole = device.upload(numbers(6, 4))
    device.write(whole[2:4], np.zeros((2, 4)))
    expected = numbers(6, 4)
    expected[2:4] = 0
    np.testing.assert_array_equal(device.read(whole), expected)
    np.testing.assert_array_equal(device.read(whole[1:3]), expected[1:3])


def test_what_another_shape_or_type_has_is_not_written(device: Device) -> None:
    array = device.upload(numbers(4))
    for host in (np.zeros(3), np.zeros((4, 1)), np.zeros(4, np.float32)):
        with pytest.raises(ValueError):
            device.write(array, host)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_a_fill_sets_every_element_and_no_other(
    device: Device, stream: Stream, dtype: type
) -> None:
    for value in (0.0, 3.0):
        whole = device.upload(np.ones(10, dtype))
        stream.bind_fill(whole[1:9], value)()
        assert device.read(whole).tolist() == [1.0] + [value] * 8 + [1.0]


def test_copies_go_from_pinned_memory_over_the_device_and_back(
    device: Device, stream: Stream
) -> None:
    host, back = device.pinned(100, np.float32), device.pinned(100, np.float32)
    first, second = device.empty(100, np.float32), device.empty(100, np.float32)
    calls = [
        stream.bind_copy(host, first), stream.bind_copy(first, second), stream.bind_copy(second, back),
    ]  # fmt: skip
    for value in (1.0, 2.0):
        host[:] = value
        for call in calls:
            call()
        stream.synchronize()
        assert back.tolist() == [value] * 100


def test_copies_without_elements_do_nothing(device: Device, stream: Stream) -> None:
    stream.bind_copy(device.pinned(0, np.float64), device.empty(0, np.float64))()
    stream.bind_fill(device.empty(0, np.float64), 1.0)()
    stream.synchronize()


def test_copies_that_cannot_be_enqueued_are_refused(device: Device, stream: Stream) -> None:
    array, pinned = device.empty(4, np.float64), device.pinned(8, np.float64)
    for source, target in (
        (np.zeros(4), array),  # pageable
        (array, pinned[::2]),  # with gaps
        (pinned, array),  # longer
        (array, device.empty(4, np.float32)),
        (device.empty(4, np.float64).reshape(2, 2).T, array),
    ):
        with pytest.raises(ValueError):
            stream.bind_copy(source, target)


def test_a_stream_keeps_the_order_of_what_it_is_given(device: Device, stream: Stream) -> None:
    a, b = device.upload(np.zeros(LARGE)), device.upload(np.ones(LARGE))
    add = accumulate(stream, a, b)
    double = stream.bind_kernel("scale", np.float64, (8,), (256,), a, LARGE, 2.0)
    for _ in range(3):
        add()
        double()
    np.testing.assert_array_equal(device.read(a), np.full(LARGE, 14.0))


def test_a_stream_waits_for_another_by_an_event(device: Device) -> None:
    first, second = device.stream(), device.stream()
    a, b = device.upload(np.zeros(LARGE)), device.upload(np.zeros(LARGE))
    fill = first.bind_fill(a, 1.0)
    add = accumulate(second, b, a)
    for _ in range(5):
        second.wait(first.record())  # of nothing new: harmless
        fill()
        second.wait(first.record())
        add()
        first.wait(second.record())
    np.testing.assert_array_equal(device.read(b), np.full(LARGE, 5.0))


def test_an_event_is_done_once_its_stream_has_come_past_it(device: Device) -> None:
    stream = device.stream()
    fill = stream.bind_fill(device.empty(LARGE, np.float32), 1.0)
    fill()
    event = stream.record()
    event.synchronize()
    assert event.is_done()
    fill()
    later = stream.record()
    stream.synchronize()
    assert later.is_done()


def test_timed_events_say_how_long_it_took(device: Device) -> None:
    stream = device.stream()
    fill = stream.bind_fill(device.empty(LARGE, np.float32), 1.0)
    start = stream.record(is_timed=True)
    for _ in range(10):
        fill()
    end = stream.record(is_timed=True)
    end.synchronize()
    assert 0 <= device.elapsed_s(start, end) < 60


def test_wrong_arguments_of_kernels_are_refused_when_they_are_bound(
    device: Device, stream: Stream
) -> None:
    a = device.empty(4, np.float32)
    for arguments in ((a, 4), (a, 4, 1.0, 1.0), (4, 4, 1.0), (a, 4.0, 1.0), (a, 2**31, 1.0)):
        with pytest.raises(ValueError):
            stream.bind_kernel("scale", np.float32, (1,), (32,), *arguments)
    with pytest.raises(ValueError):
        stream.bind_kernel("scale", np.float32, (1,), (1025,), a, 4, 1.0)


def test_a_device_says_what_it_is(device: Device) -> None:
    assert device.name
    assert device.address
    assert device.num_multiprocessors > 0
    assert device.software
    free, total = device.memory()
    assert 0 < free <= total
