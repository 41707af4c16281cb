"""The ops of the communication lane on a device: what its stream is to be given."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from exec.device.protocol import Call, Event, Stream
from exec.gpu import elementwise
from exec.program.ops import (
    Accumulate,
    Acquire,
    Collective,
    Compute,
    Grant,
    Mark,
    Op,
    Receive,
    Release,
    Repeat,
    Save,
    Scale,
    Send,
    Wait,
)
from exec.program.peers import AnyRank, Rank, Sender
from exec.runtime.buffers import Buffers, Numbers
from exec.runtime.comm import Queue, Wire, shares_of
from exec.transport.device_transport import DeviceArrival, DeviceRequest, DeviceTransport

Start = Callable[[], DeviceRequest]


@dataclass(slots=True)
class DeviceComm:
    """Binds the ops of the lane, which are done on ``stream``; ``passed`` are points of streams."""

    wire: Wire[DeviceTransport]
    buffers: Buffers
    stream: Stream
    queue: Queue
    passed: dict[str, Event] = field(default_factory=dict)
    _sent: dict[str, list[DeviceRequest]] = field(default_factory=lambda: defaultdict(list))
    _senders: dict[str, int] = field(default_factory=dict)

    def sent(self, id: str) -> list[DeviceRequest]:
        """Return all sends called ``id``, which are then forgotten."""
        return self._sent.pop(id)

    def local(self, op: Op) -> Call | None:
        """Return the call that enqueues ``op``, if no other rank takes part in it."""
        match op:
            case Accumulate(into, source_part, peer):
                into_array = self.buffers.part(into)
                source = self.buffers.window(source_part, peer.rank) if isinstance(peer, Rank) else self.buffers.part(source_part)  # fmt: skip
                return elementwise.accumulate(self.stream, into_array, source)
            case Scale(part, numerator, denominator):
                factor = numerator / denominator
                return elementwise.scale(self.stream, self.buffers.part(part), factor)
            case Grant(part):
                return partial(self._grant, self.buffers.part(part))
            case Mark():
                return lambda: None
            case _:
                return None

    def _grant(self, place: Numbers) -> None:
        self.stream.bind_fill(place, self.queue.next_ticket())()

    def start(self, op: Op) -> Start:
        """Return the call that starts ``op``, in which other ranks take part."""
        transport = self.wire.transport
        match op:
            case Send(id, part, peer, tag):
                assert isinstance(peer, Rank | Sender)
                return partial(self._send, id, self.buffers.part(part), peer, tag)
            case Receive(id, part, AnyRank(), tag):
                return partial(self._receive_any, id, self.buffers.part(part), tag)
            case Receive(_, part, peer, tag):
                assert isinstance(peer, Rank)
                return partial(transport.receive, self.buffers.part(part), peer.rank, tag)
            case Collective():
                group = self.wire.groups[op.axis, op.block]
                array, counts = self.buffers.part(op.part), shares_of(op, group.size)
                return partial(group.start_collective, op.kind, array, counts, op.root)
            case Compute() | Repeat() | Acquire() | Release() | Save() | Wait() | Accumulate() | Scale() | Grant() | Mark():  # fmt: skip
                raise ValueError(f"{op} must be a message or a collective")

    def _send(self, id: str, array: Numbers, peer: Rank | Sender, tag: int) -> DeviceRequest:
        dest = self._senders[peer.id] if isinstance(peer, Sender) else peer.rank
        request = self.wire.transport.send(array, dest, tag)
        self._sent[id].append(request)
        return request

    def _receive_any(self, id: str, array: Numbers, tag: int) -> DeviceRequest:
        queue = self.queue
        if queue.replayed is not None:
            source = next(queue.replayed)
            self._note(id, source)
            return self.wire.transport.receive(array, source, tag)
        return _Noted(self.wire.transport.receive_any(array, tag), partial(self._note, id))

    def _note(self, id: str, source: int) -> None:
        self._senders[id] = source
        self.queue.arrivals.append(source)


@dataclass(slots=True)
class _Noted:
    """A receive whose sender is noted once it is known."""

    arrival: DeviceArrival
    note: Callable[[int], None]
    is_noted: bool = False

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        if not self.arrival.Test():
            return False
        if not self.is_noted:
            self.note(self.arrival.source)
            self.is_noted = True
        return True

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        self.arrival.Wait()
        self.Test()

    def hold(self, stream: Stream) -> None:
        self.arrival.hold(stream)
        self.Test()
