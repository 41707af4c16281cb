"""What lies between a device and the host's wire: pinned buffers, and memory that ranks share."""

import numpy as np
import pytest

from exec.device.array import DeviceArray
from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.device.protocol import Device
from exec.program.ops import CollectiveKind
from exec.transport.pinned import PinnedPool, seen_as
from exec.transport.staged import StagedTransport
from exec.transport.threads import ThreadTransport, run_threads


@pytest.fixture
def device(emulated: DeviceKind) -> Device:
    """Return a device of the test's own."""
    return open_device(emulated, 0, seed=3)


def test_buffers_are_used_again_in_their_size_class(device: Device) -> None:
    pool = PinnedPool(device)
    small, large = pool.take(5000), pool.take(100_000)
    assert (small.nbytes, large.nbytes) == (8192, 131_072)
    pool.give(small)
    pool.give(large)
    assert pool.take(8192) is small
    assert pool.take(8191) is not small  # that one is in use
    assert pool.take(65_537) is large


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096])
def test_what_is_small_shares_a_class(device: Device, nbytes: int) -> None:
    pool = PinnedPool(device)
    buffer = pool.take(nbytes)
    assert buffer.nbytes == 4096
    pool.give(buffer)
    assert pool.take(4096) is buffer


def test_buffer_on_a_stream_is_free_when_the_stream_is_past_it(device: Device) -> None:
    pool, stream = PinnedPool(device), device.stream()
    array = device.upload(np.arange(6.0))
    buffer = pool.take(array.nbytes)
    stream.bind_copy(array, seen_as(buffer, array))()
    pool.give(buffer, stream.record())
    stream.synchronize()
    assert pool.take(array.nbytes) is buffer
    np.testing.assert_array_equal(seen_as(buffer, array), np.arange(6.0))


@pytest.mark.usefixtures("emulated")
def test_many_messages_need_few_buffers() -> None:
    def body(wire: ThreadTransport) -> int:
        device = open_device(DeviceKind.EMULATED, wire.rank)
        staged = StagedTransport(wire, device)
        array = device.upload(np.arange(100.0))
        for _ in range(50):
            sending = staged.send(array, 1 - wire.rank, 0)
            staged.receive(array, 1 - wire.rank, 0).Wait()
            sending.Wait()
            staged.start_collective(CollectiveKind.ALLREDUCE, array, [], 0).Wait()
            device.write(array, np.arange(100.0))
        return sum(len(free) for free in staged._staging.pool._free.values())

    assert max(run_threads(2, body)) <= 3


@pytest.mark.usefixtures("emulated")
def test_lane_goes_on_while_a_message_is_under_way() -> None:
    # What is started later leaves the device although what was started first is not done.
    def body(wire: ThreadTransport) -> float:
        device = open_device(DeviceKind.EMULATED, wire.rank, seed=5)
        staged = StagedTransport(wire, device)
        into = device.empty(3, "float64")
        receiving = staged.receive(into, 1 - wire.rank, 1)
        assert not receiving.Test()
        wire.gather_objects(None)  # neither has sent yet
        array = device.upload(np.full(3, 1.0 + wire.rank))
        staged.send(array, 1 - wire.rank, 1)  # handed over by the wait below
        receiving.Wait()
        return float(device.read(into)[0])

    assert run_threads(2, body) == [2.0, 1.0]


def test_pieces_of_pinned_memory_keep_the_type(device: Device) -> None:
    for dtype in ("float32", "float64", "int32", "int64"):
        array: DeviceArray = device.upload(np.arange(7).astype(dtype))
        seen = seen_as(PinnedPool(device).take(array.nbytes), array)
        assert (seen.dtype, seen.shape) == (np.dtype(dtype), (7,))
