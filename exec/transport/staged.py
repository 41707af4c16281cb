"""Device arrays over a transport of the host: for ranks that share a GPU, or MPI that knows no GPU.

What is sent is copied to pinned memory on the communication stream; once it is there the host's
transport takes it, and what arrives is copied to the device on the same stream. The host drives
all of it: a request moves on only when it, or another of the same rank, is tested or waited for.

What leaves the device is handed to the host's transport in the order in which it was started, so
all ranks begin their collectives in the same order. A wait first hands over all that is to leave,
since another rank may wait for it before it sends what this one waits for.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Event, Host, Stream
from exec.program.ops import CollectiveKind
from exec.transport.device_sharing import share_arrays
from exec.transport.device_transport import DeviceArrival, DeviceRequest
from exec.transport.pinned import PinnedPool, seen_as
from exec.transport.protocol import Arrival, Lock, Request, Transport, Value

_ALL, _NONE = slice(None), slice(0, 0)


@dataclass(slots=True)
class _Staged:
    """A request: copied to the host, carried by it (``begin``), and copied to the device.

    The pinned ``buffer`` holds the numbers; of these, ``target`` is set to ``landing``.
    """

    staging: "_Staging"
    buffer: Host
    begin: Callable[[], Request]
    landing: Host
    target: DeviceArray
    copied: Event | None = None
    carried: Request | None = None
    landed: Event | None = None
    is_done: bool = False

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        if self.is_done:
            return True
        self.staging.hand_over()
        if self.carried is None or not self.carried.Test():
            return False
        self._land()
        return True

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        self._drive()
        if self.landed is not None:
            self.landed.synchronize()

    def hold(self, stream: Stream) -> None:
        self._drive()
        if self.landed is not None:
            stream.wait(self.landed)

    def _drive(self) -> None:
        if self.is_done:
            return
        self.staging.hand_over(is_patient=True)
        assert self.carried is not None
        self.carried.Wait()
        self._land()

    def _land(self) -> None:
        if self.target.size:
            self.landed = self.staging.copy(self.landing, self.target)
        self.staging.pool.give(self.buffer, self.landed)
        self.is_done = True


@dataclass(slots=True)
class _StagedArrival(_Staged):
    """A receive from any rank."""

    arrival: Arrival | None = None

    @property
    def source(self) -> int:
        assert self.arrival is not None
        return self.arrival.source


@dataclass(slots=True)
class _Staging:
    """What all groups of a rank have in common; ``leaving`` is not yet with the host's transport."""

    device: Device
    stream: Stream
    pool: PinnedPool
    leaving: deque[_Staged] = field(default_factory=deque)

    def copy(self, source: DeviceArray | Host, target: DeviceArray | Host) -> Event:
        """Enqueue a copy on the communication stream, and return the point behind it."""
        if source.size:
            self.stream.bind_copy(source, target)()
        return self.stream.record()

    def hand_over(self, *, is_patient: bool = False) -> None:
        """Hand to the host's transport what is in pinned memory by now.

        If ``is_patient``, wait for all of it: no other rank is needed for that.
        """
        while self.leaving:
            first = self.leaving[0]
            assert first.copied is not None
            if is_patient:
                first.copied.synchronize()
            elif not first.copied.is_done():
                return
            self.leaving.popleft()
            first.carried = first.begin()


class StagedTransport:
    """A :class:`~exec.transport.device_transport.DeviceTransport` through the host's memory."""

    is_ordered = False

    def __init__(
        self, host: Transport, device: Device, stream: Stream | None = None,
        staging: _Staging | None = None,
    ) -> None:  # fmt: skip
        self._is_part = staging is not None
        self._staging = staging or _Staging(device, stream or device.stream(), PinnedPool(device))
        self.host, self.device, self.stream = host, device, self._staging.stream
        self.rank, self.size = host.rank, host.size

    @property
    def library(self) -> str:
        """What carries the messages, and by which way."""
        return f"{self.host.library}, host-staged"

    @property
    def nbytes_sent(self) -> int:
        """The bytes that the host's transport was given."""
        return self.host.nbytes_sent

    def count_again(self, nbytes: int) -> None:
        """Refuse: the host carries every message itself, and a graph cannot."""
        raise ValueError(f"{nbytes} bytes must be sent by calls of a transport of the host")

    def prepare(self, pairs: Collection[tuple[int, int]]) -> None:
        """Do nothing: the host's transport is always ready."""

    def send(self, array: DeviceArray, dest: int, tag: int) -> DeviceRequest:
        """Start to copy ``array`` to the host, which then sends it."""
        return self._start(array, _ALL, _NONE, lambda out: self.host.send(out, dest, tag))

    def receive(self, array: DeviceArray, source: int, tag: int) -> DeviceRequest:
        """Start to receive on the host; what arrives is then copied to ``array``."""
        buffer = self._staging.pool.take(array.nbytes)
        into = seen_as(buffer, array)
        carried = self.host.receive(into, source, tag)
        return _Staged(self._staging, buffer, lambda: carried, into, array, carried=carried)

    def receive_any(self, array: DeviceArray, tag: int) -> DeviceArrival:
        """Start to receive on the host from whoever sends first."""
        buffer = self._staging.pool.take(array.nbytes)
        into = seen_as(buffer, array)
        carried = self.host.receive_any(into, tag)
        return _StagedArrival(
            self._staging, buffer, lambda: carried, into, array, carried=carried, arrival=carried
        )

    def start_collective(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> DeviceRequest:
        """Start to copy what this rank brings to the host, which then does ``kind``."""
        brought, taken = _places(kind, counts, self.rank, root)
        start = partial(self.host.start_collective, kind)
        return self._start(array, brought, taken, lambda numbers: start(numbers, counts, root))

    def _start(
        self, array: DeviceArray, brought: slice, taken: slice, begin: Callable[[Host], Request]
    ) -> DeviceRequest:
        """Start to copy what is ``brought`` to the host; what is ``taken`` will be copied back."""
        staging = self._staging
        buffer = staging.pool.take(array.nbytes)
        numbers = seen_as(buffer, array)
        request = _Staged(staging, buffer, lambda: begin(numbers), numbers[taken], array[taken])
        request.copied = staging.copy(array[brought], numbers[brought])
        staging.leaving.append(request)
        return request

    def run_collective(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> None:
        """Do ``kind``; the copy to the device may still be under way on the stream."""
        self.start_collective(kind, array, counts, root).hold(self.stream)

    def share(self, size: int, dtype: DTypeLike) -> list[DeviceArray]:
        """Return every rank's array."""
        return share_arrays(self.host, self.device, size, dtype)

    def lock(self) -> Lock:
        """Return a lock of the host's transport."""
        return self.host.lock()

    def check(self) -> None:
        """Raise if another rank is known to have failed."""
        self.host.check()

    def split(self, color: int) -> "StagedTransport":
        """Return the group of the ranks that name the same ``color``."""
        return StagedTransport(self.host.split(color), self.device, staging=self._staging)

    def close(self) -> None:
        """Give back the part of the host's transport that this is on, if it is a part."""
        if self._is_part:
            self.host.close()

    def gather_objects(self, value: Value) -> list[Value]:
        """Return every rank's ``value``, on every rank."""
        return self.host.gather_objects(value)

    def stop(self) -> None:
        """Do nothing: on the device nothing waits for another rank."""

    def abort(self, message: str, status: int) -> NoReturn:
        """End all ranks of the job."""
        self.host.abort(message, status)


def _places(
    kind: CollectiveKind, counts: Sequence[int], rank: int, root: int
) -> tuple[slice, slice]:
    """Return what this rank brings to ``kind``, and what it takes from it."""
    start = sum(counts[:rank])
    match kind:
        case CollectiveKind.ALLREDUCE:
            return _ALL, _ALL
        case CollectiveKind.ALLGATHER:
            return slice(start, start + counts[rank]), _ALL
        case CollectiveKind.REDUCE_SCATTER:
            return _ALL, slice(start, start + counts[rank])
        case CollectiveKind.BROADCAST:
            return (_ALL, _NONE) if rank == root else (_NONE, _ALL)
        case CollectiveKind.REDUCE:
            return _ALL, _ALL if rank == root else _NONE
        case CollectiveKind.BARRIER:
            return _NONE, _NONE
