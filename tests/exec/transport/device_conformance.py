"""What every transport of device arrays must do beyond the cases of all: it keeps to streams.

Nothing here waits for the device before the end, so what is not ordered is wrong on emulated
devices, whose streams do things as late and in as odd an order as they may.

    mpiexec -n P python -m tests.exec.transport.device_conformance staged emulated
    mpiexec -n P python -m tests.exec.transport.device_conformance nccl gpu

run these cases and those of all transports on processes.
"""

import sys
from collections.abc import Callable

import numpy as np

from exec.device.array import DeviceArray
from exec.device.kind import DeviceKind
from exec.device.opening import count_devices, open_device
from exec.device.protocol import Host, Stream
from exec.program.ops import CollectiveKind
from exec.runtime.devices import DeviceWire, connect_devices, place_rank
from exec.runtime.job import TransportName, run_job
from exec.transport.device_transport import DeviceTransport
from exec.transport.protocol import Transport
from tests.exec.transport.conformance import (
    CASES,
    NCCL_CASES,
    conform,
)
from tests.exec.transport.placed import get_ready, neighbours, own, total

DeviceCase = Callable[[DeviceTransport], None]
SIZE = 1000


def seen_on(stream: Stream, array: DeviceArray) -> Host:
    """Return what ``stream`` finds in ``array`` when it comes to it."""
    found = stream.device.pinned(array.size, array.dtype)
    stream.bind_copy(array, found)()
    stream.synchronize()
    return found


def filled(wire: DeviceTransport, value: float) -> DeviceArray:
    """Return an array that the wire's stream will have filled, at some time."""
    array = wire.device.empty(SIZE, "float64")
    wire.stream.bind_fill(array, value)()
    return array


def stream_that_is_held_finds_the_message(wire: DeviceTransport) -> None:
    before, after = neighbours(wire)
    if wire.size == 1:
        return
    other, into = wire.device.stream(), wire.device.empty(SIZE, "float64")
    sending = wire.send(filled(wire, wire.rank + 1.0), after, 1)
    wire.receive(into, before, 1).hold(other)
    np.testing.assert_array_equal(seen_on(other, into), before + 1.0)
    sending.Wait()


def stream_that_is_held_finds_the_sum(wire: DeviceTransport) -> None:
    other, array = wire.device.stream(), wire.device.upload(own(wire, SIZE))
    wire.start_collective(CollectiveKind.ALLREDUCE, array, [], 0).hold(other)
    np.testing.assert_array_equal(seen_on(other, array), total(wire, SIZE))


def collective_begins_after_what_is_on_the_stream(wire: DeviceTransport) -> None:
    array = filled(wire, 2.0)
    wire.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)
    np.testing.assert_array_equal(seen_on(wire.stream, array), 2.0 * wire.size)


def collectives_follow_each_other(wire: DeviceTransport) -> None:
    array = filled(wire, 1.0)
    for _ in range(3):
        wire.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)
    np.testing.assert_array_equal(seen_on(wire.stream, array), float(wire.size**3))


def sent_array_may_be_overwritten_by_a_stream_that_is_held(wire: DeviceTransport) -> None:
    before, after = neighbours(wire)
    if wire.size == 1:
        return
    other, into = wire.device.stream(), wire.device.empty(SIZE, "float64")
    array = filled(wire, wire.rank + 1.0)
    sending = wire.send(array, after, 2)
    receiving = wire.receive(into, before, 2)
    sending.hold(other)
    other.bind_fill(array, -1.0)()
    receiving.hold(wire.stream)
    np.testing.assert_array_equal(seen_on(wire.stream, into), before + 1.0)
    other.synchronize()


def message_may_be_passed_on(wire: DeviceTransport) -> None:
    # Round the ring, from rank 0 back to it, by the order of streams alone where there is one.
    before, after = neighbours(wire)
    if wire.size == 1:
        return
    array = filled(wire, 7.0) if wire.rank == 0 else wire.device.empty(SIZE, "float64")
    if wire.rank:
        wire.receive(array, before, 3).hold(wire.stream)
    sending = wire.send(array, after, 3)
    if wire.rank == 0:
        back = wire.device.empty(SIZE, "float64")
        wire.receive(back, before, 3).hold(wire.stream)
        np.testing.assert_array_equal(seen_on(wire.stream, back), 7.0)
    sending.Wait()


def groups_use_the_same_stream(wire: DeviceTransport) -> None:
    part = wire.split(wire.rank % 2)
    assert part.stream is wire.stream
    array = filled(wire, 1.0)
    wire.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)
    part.run_collective(CollectiveKind.ALLREDUCE, array, [], 0)
    np.testing.assert_array_equal(seen_on(wire.stream, array), float(wire.size * part.size))
    part.close()


def what_is_ordered_can_be_captured(wire: DeviceTransport) -> None:
    if not wire.is_ordered:
        return
    before, after = neighbours(wire)
    compute, comm = wire.device.stream(), wire.stream
    array, into = wire.device.upload(np.ones(SIZE)), wire.device.upload(np.ones(SIZE))

    def step() -> None:
        comm.wait(compute.record())
        wire.start_collective(CollectiveKind.ALLREDUCE, array, [], 0)
        if wire.size > 1:
            sending = wire.send(array, after, 4)
            wire.receive(into, before, 4)
            sending.hold(comm)
        compute.wait(comm.record())

    step()
    graph = compute.capture(step)
    for _ in range(2):
        graph.launch(compute)
    expected = float(wire.size**3)
    np.testing.assert_array_equal(seen_on(compute, array), expected)
    np.testing.assert_array_equal(seen_on(compute, into), expected if wire.size > 1 else 1.0)


DEVICE_CASES: tuple[DeviceCase, ...] = (
    stream_that_is_held_finds_the_message,
    stream_that_is_held_finds_the_sum,
    collective_begins_after_what_is_on_the_stream,
    collectives_follow_each_other,
    sent_array_may_be_overwritten_by_a_stream_that_is_held,
    message_may_be_passed_on,
    groups_use_the_same_stream,
    what_is_ordered_can_be_captured,
)


def conform_on_devices(name: DeviceWire, kind: DeviceKind, wire: Transport) -> None:
    """Do all cases with a device for each rank, or fewer that ranks share."""
    device = open_device(kind, place_rank(wire, count_devices(kind)), seed=wire.rank + 1)
    transport, _ = connect_devices(wire, device, name)
    get_ready(transport)
    cases = NCCL_CASES if name is DeviceWire.NCCL else CASES
    conform(transport, (*cases, *DEVICE_CASES))
    transport.close()
    device.close()


if __name__ == "__main__":
    chosen = DeviceWire(sys.argv[1]), DeviceKind(sys.argv[2])
    run_job(TransportName.MPI, None, lambda wire: conform_on_devices(*chosen, wire))
