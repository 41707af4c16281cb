"""Groups of emulated devices: ranks as threads, or all driven by one thread once they have joined."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from exec.device.array import DeviceArray
from exec.device.emulated import EmulatedDevice
from exec.device.emulated_group import EmulatedGroup
from exec.device.protocol import Stream
from exec.errors import DeviceError
from tests.exec.device.test_emulated_streams import open_emulated


def join(size: int, seed: int = 0) -> tuple[list[EmulatedDevice], list[EmulatedGroup]]:
    devices = [open_emulated(seed and seed + rank, rank) for rank in range(size)]
    id = devices[0].new_group_id()
    with ThreadPoolExecutor(size) as pool:
        groups = list(pool.map(lambda rank: devices[rank].join_group(id, rank, size), range(size)))
    return devices, groups


def rows(devices: list[EmulatedDevice], length: int, dtype: type = np.float64) -> list[DeviceArray]:
    return [
        device.upload(np.arange(length, dtype=dtype) + 10**rank)
        for rank, device in enumerate(devices)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_collectives_are_their_definitions(size: int, dtype: type) -> None:
    devices, groups = join(size, seed=size)
    streams = [device.stream() for device in devices]
    length, root = 2 * size, size - 1
    given = [np.arange(length, dtype=dtype) + 10**rank for rank in range(size)]
    total = np.sum(given, axis=0)
    shares = [slice(2 * rank, 2 * rank + 2) for rank in range(size)]
    arrays = {name: rows(devices, length, dtype) for name in ("a", "b", "c", "d", "e")}
    for rank, (group, stream) in enumerate(zip(groups, streams, strict=True)):
        group.allreduce(arrays["a"][rank], stream)
        group.reduce(arrays["b"][rank], root, stream)
        group.broadcast(arrays["c"][rank], root, stream)
        group.allgather(arrays["d"][rank], stream)
        group.reduce_scatter(arrays["e"][rank], stream)
    gathered = np.concatenate([each[share] for each, share in zip(given, shares, strict=True)])
    for rank, device in enumerate(devices):
        scattered = given[rank].copy()
        scattered[shares[rank]] = total[shares[rank]]
        reduced = total if rank == root else given[rank]
        results = [total, reduced, given[root], gathered, scattered]
        for name, expected in zip(arrays, results, strict=True):
            np.testing.assert_array_equal(device.read(arrays[name][rank]), expected)


@pytest.mark.parametrize("seed", range(5))
def test_messages_of_a_pair_match_in_order_and_hold_their_streams(seed: int) -> None:
    devices, groups = join(2, seed)
    first, second = rows(devices, 3)
    into = devices[1].empty(6, np.float64)
    left, right = (device.stream() for device in devices)
    groups[0].send(first, 1, left)
    left.bind_fill(first, 7)()  # after the first was sent, before the second is
    groups[0].send(first, 1, left)
    groups[1].receive(into[:3], 0, right)
    groups[1].receive(into[3:], 0, right)
    right.bind_kernel("accumulate", np.float64, (1,), (4,), second, into[3:], 3)()
    assert devices[1].read(into).tolist() == [1, 2, 3, 7, 7, 7]
    assert devices[1].read(second).tolist() == [17, 18, 19]


def test_a_group_keeps_the_order_of_giving_on_any_streams() -> None:
    for seed in range(1, 8):
        devices, groups = join(2, seed)
        arrays, others = rows(devices, 2), rows(devices, 2)
        for rank, group in enumerate(groups):
            one, another = devices[rank].stream(), devices[rank].stream()
            group.broadcast(arrays[rank], 0, one)
            group.broadcast(others[rank], 1, another)
        assert [device.read(a).tolist() for device, a in zip(devices, arrays, strict=True)] == [
            [1, 2],
            [1, 2],
        ]
        assert [device.read(a).tolist() for device, a in zip(devices, others, strict=True)] == [
            [10, 11],
            [10, 11],
        ]


def shift(groups: list[EmulatedGroup], streams: list[Stream], is_together: bool) -> None:
    """Each rank sends to the next, and receives from the last."""
    for rank, (group, stream) in enumerate(zip(groups, streams, strict=True)):
        device = stream.device
        out, into = device.upload(np.full(1, float(rank))), device.empty(1, np.float64)
        with group.together() if is_together else ExitStack():
            group.send(out, (rank + 1) % len(groups), stream)
            group.receive(into, (rank - 1) % len(groups), stream)
        results.append(into)


results: list[DeviceArray] = []


@pytest.fixture(autouse=True)
def _no_results() -> Iterator[None]:
    yield
    results.clear()


def test_messages_in_a_ring_need_to_be_together() -> None:
    devices, groups = join(3)
    shift(groups, [device.stream() for device in devices], is_together=True)
    got = [device.read(into)[0] for device, into in zip(devices, results, strict=True)]
    assert got == [2, 0, 1]
    devices, groups = join(3)
    shift(groups, [device.stream() for device in devices], is_together=False)
    with pytest.raises(DeviceError, match=r"waits for what never comes.*send of 1 float64"):
        devices[0].synchronize()


def test_a_batch_on_two_streams_holds_both() -> None:
    for seed in range(6):
        devices, groups = join(2, seed)
        arrays, others = rows(devices, 2), rows(devices, 2)
        for rank, group in enumerate(groups):
            one, another = devices[rank].stream(), devices[rank].stream()
            another.bind_fill(others[rank], rank + 1)()
            with group.together(), group.together():
                group.allreduce(arrays[rank], one)
                group.allreduce(others[rank], another)
            another.bind_kernel("scale", np.float64, (1,), (2,), arrays[rank], 2, 2.0)()
        for device, array, other in zip(devices, arrays, others, strict=True):
            assert device.read(array).tolist() == [22, 26]
            assert device.read(other).tolist() == [3, 3]


def test_collectives_can_be_captured_and_launched_again() -> None:
    devices, groups = join(2, seed=3)
    arrays = rows(devices, 2)
    for rank, group in enumerate(groups):
        stream, lane = devices[rank].stream(), devices[rank].stream()

        def body(
            group: EmulatedGroup = group, array: DeviceArray = arrays[rank],
            stream: Stream = stream, lane: Stream = lane,
        ) -> None:  # fmt: skip
            lane.wait(stream.record())
            group.allreduce(array, lane)
            stream.wait(lane.record())

        graph = stream.capture(body)
        graph.launch(stream)
        graph.launch(stream)
    assert [device.read(a).tolist() for device, a in zip(devices, arrays, strict=True)] == [
        [22, 26],
        [22, 26],
    ]


def run_ranks(*bodies: Callable[[], object]) -> list[str]:
    """Run each body in a thread of its own; return how each failed."""
    said = [""] * len(bodies)

    def run(rank: int) -> None:
        try:
            bodies[rank]()
        except DeviceError as error:
            said[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_ranks_that_wait_for_each_other_are_told() -> None:
    devices, groups = join(2)
    arrays = rows(devices, 2)

    def receive(rank: int) -> None:
        stream = devices[rank].stream()
        groups[rank].receive(arrays[rank], 1 - rank, stream)
        stream.synchronize()

    said = run_ranks(lambda: receive(0), lambda: receive(1))
    assert all("waits for what never comes" in each for each in said)


def test_a_rank_whose_partner_has_closed_its_device_is_told() -> None:
    devices, groups = join(2)
    arrays = rows(devices, 2)

    def reduce() -> None:
        groups[0].allreduce(arrays[0], devices[0].stream())
        devices[0].synchronize()

    def end() -> None:
        devices[1].stream().bind_fill(arrays[1], 0)()
        devices[1].close()

    said = run_ranks(reduce, end)
    assert "waits for what never comes" in said[0]
    assert said[1] == ""


def test_ranks_that_differ_are_an_error_on_all() -> None:
    differing: list[Callable[[EmulatedGroup, DeviceArray, Stream], object]] = [
        lambda group, array, stream: group.allreduce(array[: 1 + group.rank], stream),
        lambda group, array, stream: group.broadcast(array, group.rank, stream),
        lambda group, array, stream: (group.allreduce, group.reduce_scatter)[group.rank](
            array, stream
        ),
        lambda group, array, stream: (group.send, group.receive)[group.rank](
            array[group.rank :], 1 - group.rank, stream
        ),
    ]
    for call in differing:
        devices, groups = join(2)
        for group, array, device in zip(groups, rows(devices, 2), devices, strict=True):
            call(group, array, device.stream())
        for device, group in zip(devices, groups, strict=True):
            with pytest.raises(DeviceError, match="ranks of a group must do the same"):
                device.synchronize()
            with pytest.raises(DeviceError, match="ranks of a group must do the same"):
                group.check()


def test_abort_ends_what_is_under_way_here_and_fails_there() -> None:
    devices, groups = join(2)
    arrays = rows(devices, 2)
    groups[0].check()
    for rank in range(2):
        groups[rank].allreduce(arrays[rank][: rank + 1], devices[rank].stream())
    groups[0].abort()
    devices[0].synchronize()
    with pytest.raises(DeviceError, match="rank 0 has left the group"):
        devices[1].synchronize()
    with pytest.raises(DeviceError, match="rank 0 has left"):
        groups[1].check()


def test_calls_that_cannot_work_are_refused() -> None:
    devices, groups = join(2)
    array, stream = devices[0].upload(np.zeros(3)), devices[0].stream()
    group = groups[0]
    with pytest.raises(ValueError, match="multiple of 2"):
        group.allgather(array, stream)
    with pytest.raises(ValueError, match="rank must be another one"):
        group.send(array, 0, stream)
    with pytest.raises(ValueError, match="rank must be another one"):
        group.broadcast(array, 2, stream)
    with pytest.raises(ValueError, match="stream must be of the group's device"):
        group.allreduce(array, devices[1].stream())
    with pytest.raises(ValueError, match="array must be rows of"):
        group.allreduce(devices[0].empty(2, np.uint8), stream)


def test_two_ranks_on_one_device_are_refused() -> None:
    device = open_emulated()
    device.join_group(b"alone", 0, 1).close()
    other = open_emulated()  # the same index
    id = device.new_group_id()
    said = run_ranks(
        lambda: device.join_group(id, 0, 2),
        lambda: other.join_group(id, 1, 2),
    )
    assert all("have a device each" in each for each in said)


def test_close_returns_once_all_is_done() -> None:
    devices, groups = join(2, seed=5)
    arrays = rows(devices, 2)
    for group, array, device in zip(groups, arrays, devices, strict=True):
        group.allreduce(array, device.stream())
    for group in groups:
        group.close()
    view = arrays[0]
    assert devices[0].read(view).tolist() == [11, 13]
