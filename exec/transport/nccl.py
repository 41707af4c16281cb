"""Device arrays over groups of devices (NCCL): all in the order of streams; the host never waits.

Collectives and receives are given to the communication stream, and hold it until they are done. A
send must not: its lane goes on at once, while NCCL holds a stream until the other rank receives.
Two ranks that send to each other before they receive would wait for ever, and pipelines do so. So
each ordered pair of ranks that talks has a channel of its own: a group of two, and on the side of
the sender a stream. All ranks make the channels together, beforehand (``prepare``).

The kernels of channels run beside each other and beside collectives, and wait for their peers: all
that are under way must fit on the GPU together, which a few do. Steps may be captured in graphs; NCCL
wants every rank of an op to capture it, or none.

NCCL knows neither tags nor receives from any rank. Messages from one rank to another match in the
order of the lanes; :func:`~exec.program.channels.check_order` says for which programs that is right.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.group import Group
from exec.device.protocol import Device, Event, Stream
from exec.errors import TransportError
from exec.program.ops import CollectiveKind
from exec.transport.device_transport import DeviceArrival, DeviceRequest
from exec.transport.meter import Meter
from exec.transport.protocol import Lock, Transport, Value


@dataclass(frozen=True, slots=True)
class _Ordered:
    """What is done when ``stream`` comes to ``event``."""

    stream: Stream
    event: Event

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        return self.event.is_done()

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        self.event.synchronize()

    def hold(self, stream: Stream) -> None:
        if stream is not self.stream:
            stream.wait(self.event)


@dataclass(frozen=True, slots=True)
class _Channel:
    """The way from this rank to another: it is rank 0 of ``group``, the other is rank 1."""

    group: Group
    stream: Stream


@dataclass(slots=True)
class _Family:
    """What all groups of this rank have in common; ``token`` is what a barrier adds up."""

    device: Device
    stream: Stream
    token: DeviceArray
    groups: list[Group] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)

    def join(self, id: bytes, rank: int, size: int) -> Group:
        group = self.device.join_group(id, rank, size)
        self.groups.append(group)
        return group

    def leave(self, group: Group) -> None:
        self.groups.remove(group)
        group.close()


class NcclTransport:
    """A :class:`~exec.transport.device_transport.DeviceTransport` over groups of devices.

    ``host`` is the control plane of the same ranks, each of which has a device of its own.
    """

    is_ordered = True

    def __init__(
        self, host: Transport, device: Device, stream: Stream | None = None,
        family: _Family | None = None,
    ) -> None:  # fmt: skip
        self._is_part = family is not None
        if family is None:
            token = device.upload(np.zeros(1, np.float32))
            family = _Family(device, stream or device.stream(), token)
        self.host, self.device, self.stream = host, device, family.stream
        self.rank, self.size = host.rank, host.size
        self._family = family
        id = host.gather_objects(device.new_group_id() if host.rank == 0 else b"")[0]
        self._group = family.join(id, host.rank, host.size)
        self._out: dict[int, _Channel] = {}
        self._in: dict[int, Group] = {}
        self._prepared: set[tuple[int, int]] = set()

    @property
    def library(self) -> str:
        """The name and version of what carries the arrays."""
        return self._group.library

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has sent, or would have if collectives were messages; the host's too."""
        return self._family.meter.nbytes + self.host.nbytes_sent

    def count_again(self, nbytes: int) -> None:
        """Count ``nbytes`` as sent."""
        self._family.meter.count_again(nbytes)

    def prepare(self, pairs: Collection[tuple[int, int]]) -> None:
        """Make a channel for each of ``pairs`` that has none; all make them in the same order."""
        new = sorted(set(pairs) - self._prepared)
        mine = {dest: self.device.new_group_id() for source, dest in new if source == self.rank}
        ids = self.host.gather_objects(mine)
        for source, dest in new:
            if self.rank == source:
                group = self._family.join(ids[source][dest], 0, 2)
                self._out[dest] = _Channel(group, self.device.stream())
            elif self.rank == dest:
                self._in[source] = self._family.join(ids[source][dest], 1, 2)
        self._prepared.update(new)

    def send(self, array: DeviceArray, dest: int, tag: int) -> DeviceRequest:
        """Enqueue the send on the channel's stream; the communication stream goes on."""
        channel = self._out.get(dest)
        if channel is None:
            raise self._unprepared(self.rank, dest, tag)
        self._family.meter.count_message(array)
        channel.stream.wait(self.stream.record())
        if array.size:
            channel.group.send(array, 1, channel.stream)
        return _Ordered(channel.stream, channel.stream.record())

    def receive(self, array: DeviceArray, source: int, tag: int) -> DeviceRequest:
        """Enqueue the receive of what ``source`` sends next, whatever its tag."""
        group = self._in.get(source)
        if group is None:
            raise self._unprepared(source, self.rank, tag)
        if array.size:
            group.receive(array, 0, self.stream)
        return _Ordered(self.stream, self.stream.record())

    def _unprepared(self, source: int, dest: int, tag: int) -> TransportError:
        return TransportError(
            f"NCCL needs a channel from rank {source} to rank {dest} for tag {tag}; all ranks must "
            f"prepare it together"
        )

    def receive_any(self, array: DeviceArray, tag: int) -> DeviceArrival:
        """Refuse: NCCL must know who sends."""
        raise TransportError(
            f"NCCL cannot receive {array.size} {array.dtype} with tag {tag} from any rank: that "
            f"needs host-staged messages; use --transport mpi, threads or tcp"
        )

    def start_collective(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> DeviceRequest:
        """Enqueue ``kind``."""
        self._family.meter.count_collective(kind, array, self.size, self.rank == root)
        if kind is CollectiveKind.BARRIER:
            self._group.allreduce(self._family.token, self.stream)
        elif array.size:
            self._enqueue(kind, array, counts, root)
        return _Ordered(self.stream, self.stream.record())

    def _enqueue(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> None:
        group, stream = self._group, self.stream
        is_even = len(set(counts)) == 1
        match kind:
            case CollectiveKind.ALLREDUCE:
                group.allreduce(array, stream)
            case CollectiveKind.BROADCAST:
                group.broadcast(array, root, stream)
            case CollectiveKind.REDUCE:
                group.reduce(array, root, stream)
            case CollectiveKind.ALLGATHER if is_even:
                group.allgather(array, stream)
            case CollectiveKind.REDUCE_SCATTER if is_even:
                group.reduce_scatter(array, stream)
            case CollectiveKind.ALLGATHER | CollectiveKind.REDUCE_SCATTER:
                one = group.broadcast if kind is CollectiveKind.ALLGATHER else group.reduce
                with group.together():
                    for rank, share in enumerate(_shares(array, counts)):
                        if share.size:
                            one(share, rank, stream)
            case CollectiveKind.BARRIER:
                raise AssertionError("a barrier has no array")

    def run_collective(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> None:
        """Enqueue ``kind``."""
        self.start_collective(kind, array, counts, root)

    def share(self, size: int, dtype: DTypeLike) -> list[DeviceArray]:
        """Refuse: every rank has a GPU of its own."""
        raise TransportError(
            f"shared memory ({size} {np.dtype(dtype)} of rank {self.rank}) needs ranks on one GPU, "
            f"got a GPU a rank with NCCL; use --transport mpi or threads, or choose another strategy"
        )

    def lock(self) -> Lock:
        """Return a lock of the control plane."""
        return self.host.lock()

    def check(self) -> None:
        """Raise if another rank, or a group of this one, has failed."""
        self.host.check()
        for group in tuple(self._family.groups):
            group.check()

    def split(self, color: int) -> "NcclTransport":
        """Return the group of the ranks that name the same ``color``."""
        return NcclTransport(self.host.split(color), self.device, family=self._family)

    def close(self) -> None:
        """Give back this group and its channels, and the part of the host's transport it is on."""
        for source, dest in sorted(self._prepared):
            if self.rank == source:
                self._family.leave(self._out.pop(dest).group)
            elif self.rank == dest:
                self._family.leave(self._in.pop(source))
        self._prepared.clear()
        self._family.leave(self._group)
        if self._is_part:
            self.host.close()

    def gather_objects(self, value: Value) -> list[Value]:
        """Return every rank's ``value``, on every rank."""
        return self.host.gather_objects(value)

    def stop(self) -> None:
        """End all that is under way: what waits for another rank waits no more."""
        for group in tuple(self._family.groups):
            group.abort()

    def abort(self, message: str, status: int) -> NoReturn:
        """End all ranks of the job."""
        self.stop()
        self.host.abort(message, status)


def _shares(array: DeviceArray, counts: Sequence[int]) -> list[DeviceArray]:
    return [array[sum(counts[:rank]) :][:count] for rank, count in enumerate(counts)]
