"""The ops of the communication lane, bound to arrays and to the transport."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from exec.nn.backend import xp
from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Acquire,
    Collective,
    CollectiveKind,
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
from exec.program.peers import AnyRank, Rank, Sender, split_size
from exec.program.program import Program
from exec.runtime.buffers import Buffers
from exec.runtime.lane import CommStep
from exec.transport.device_transport import DeviceTransport
from exec.transport.protocol import Arrival, Buffer, Lock, Request, Transport

_CACHED_NBYTES = 16 << 20
"""Of a window, what is likely to be in a cache that cores share until its owner writes it again."""

AnyTransport = TypeVar("AnyTransport", Transport, DeviceTransport)


@dataclass(slots=True)
class Wire(Generic[AnyTransport]):
    """The transport, the groups along each axis (and block of it) and the locks, for the rank's ops."""

    transport: AnyTransport
    groups: dict[tuple[Axis, int], AnyTransport] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)

    @classmethod
    def connect(cls, transport: AnyTransport, programs: Sequence[Program]) -> "Wire[AnyTransport]":
        """Make the groups that ``programs`` need; all ranks must call it together."""
        mesh = programs[0].mesh
        ops = [op for program in programs for role in program.roles for op in role.ops]
        found = {(op.axis, op.block) for op in ops if isinstance(op, Collective)}
        names = {op.name for op in ops if isinstance(op, Acquire)}
        groups = {
            (axis, block): transport.split(mesh.group(transport.rank, axis, block)[0])
            for axis, block in sorted(found)
        }
        return cls(transport, groups, {name: transport.lock() for name in sorted(names)})


@dataclass(slots=True)
class Queue:
    """What a server knows of its workers: who came when, and the tickets it has handed out.

    ``arrivals`` are the senders of the messages received from *any* rank, in order. With
    ``replayed`` messages are taken in that order instead of as they come.
    """

    num_workers: int
    tickets: int
    num_granted: int = 0
    arrivals: list[int] = field(default_factory=list)
    replayed: Iterator[int] | None = None

    def next_ticket(self) -> int:
        """Return the next ticket, or -1 if there is none left; the first are not asked for."""
        granted = self.num_workers + self.num_granted
        self.num_granted += 1
        return granted if granted < self.tickets else -1


@dataclass(slots=True)
class CommBinder:
    """Binds the ops of the communication lane; ``gates`` says how many compute ops each id is.

    Collectives in ``awaited_at_once`` are done in the blocking form, on every rank.
    """

    wire: Wire[Transport]
    buffers: Buffers
    gates: dict[str, int]
    awaited_at_once: set[str]
    queue: Queue
    _sent: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    _senders: dict[str, int] = field(default_factory=dict)

    def wait_sent(self, id: str) -> None:
        """Return when all sends called ``id`` are done."""
        for request in self._sent.pop(id):
            request.Wait()

    def bind(self, op: Op) -> CommStep:
        """Return ``op`` as a step of the lane."""
        match op:
            case Send():
                return self._send(op)
            case Receive(id, part, AnyRank(), tag):
                return self._receive_any(id, self.buffers.part(part), tag)
            case Receive(id, part, peer, tag):
                assert isinstance(peer, Rank)
                array, transport = self.buffers.part(part), self.wire.transport
                start = partial(transport.receive, array, peer.rank, tag)
                return CommStep(f"recv {id}", start, lambda: start().Wait())
            case Accumulate(into, source_part, peer):
                out = self.buffers.part(into)
                if isinstance(peer, Rank):
                    return _local(
                        "accumulate", _taker(out, self.buffers.window(source_part, peer.rank))
                    )
                return _local(
                    "accumulate", partial(xp.add, out, self.buffers.part(source_part), out)
                )
            case Scale(part, numerator, denominator):
                scaled = self.buffers.part(part)
                factor = scaled.dtype.type(numerator / denominator)
                return _local("scale", partial(xp.multiply, scaled, factor, out=scaled))
            case Grant(part):
                place, queue = self.buffers.part(part), self.queue
                return _local("grant", lambda: place.fill(queue.next_ticket()))
            case Collective():
                return self._collective(op)
            case Wait(_, id) if id in self.gates:
                return CommStep("", _nothing, _nothing, gate=self.gates[id])
            case Wait(_, id):
                return CommStep("", lambda: _All(self._sent.pop(id)), partial(self.wait_sent, id))
            case Mark():
                return CommStep("", _nothing, _nothing)
            case Compute() | Repeat() | Acquire() | Release() | Save():
                raise ValueError(f"{op} must not be on the communication lane")

    def _send(self, op: Send) -> CommStep:
        transport, sent, peer = self.wire.transport, self._sent, op.peer
        assert isinstance(peer, Rank | Sender)
        array, id, tag = self.buffers.part(op.part), op.id, op.tag

        def start() -> None:
            dest = self._senders[peer.id] if isinstance(peer, Sender) else peer.rank
            sent[id].append(transport.send(array, dest, tag))

        return CommStep(f"send {id}", start, start)

    def _receive_any(self, id: str, array: Buffer, tag: int) -> CommStep:
        transport, queue = self.wire.transport, self.queue

        def note(source: int) -> None:
            self._senders[id] = source
            queue.arrivals.append(source)

        def start() -> Request:
            if queue.replayed is None:
                return _Noted(transport.receive_any(array, tag), note)
            source = next(queue.replayed)
            note(source)
            return transport.receive(array, source, tag)

        return CommStep(f"recv {id}", start, lambda: start().Wait())

    def _collective(self, op: Collective) -> CommStep:
        group = self.wire.groups[op.axis, op.block]
        array = self.buffers.part(op.part)
        counts = shares_of(op, group.size)
        arguments = (op.kind, array, counts, op.root)
        start = partial(group.start_collective, *arguments)
        if op.id in self.awaited_at_once:
            return CommStep(op.id, start, partial(group.run_collective, *arguments))
        return CommStep(op.id, start, lambda: start().Wait())


_SHARED = (CollectiveKind.ALLGATHER, CollectiveKind.REDUCE_SCATTER)


def shares_of(op: Collective, size: int) -> list[int]:
    """Return how many elements of the part each of ``size`` ranks has, if they share it at all."""
    if op.kind not in _SHARED:
        return []
    part = op.part
    units = (part.stop - part.start) // part.unit
    return [split_size(units, size, rank) * part.unit for rank in range(size)]


def _nothing() -> None:
    return


def _local(name: str, call: Callable[[], object]) -> CommStep:
    """Return a step that is done as soon as it begins."""

    def start() -> None:
        call()

    return CommStep(name, start, call)


def _taker(out: Buffer, window: Buffer) -> Callable[[], object]:
    """Return a call that adds another rank's ``window`` to ``out``, and takes its cache lines over.

    Nobody needs what was read again: its owner writes it anew. But a line that two cores have read
    is slow to write, for the other must be told to drop its copy, line by line; one that the other
    has written moves as a whole, and ahead of its use. Overwriting what was read costs a third of
    reading it and makes the owner's next writing some six times faster, in a cache that both share.
    """
    if window.nbytes > _CACHED_NBYTES:
        return partial(xp.add, out, window, out)
    add, overwrite = xp.add, window.fill

    def take() -> None:
        add(out, window, out)
        overwrite(0.0)

    return take


@dataclass(slots=True)
class _All:
    """Several requests as one."""

    requests: list[Request]

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        return all(request.Test() for request in self.requests)

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        for request in self.requests:
            request.Wait()


@dataclass(slots=True)
class _Noted:
    """A receive whose sender is noted once it is known."""

    arrival: Arrival
    note: Callable[[int], None]

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        is_done = self.arrival.Test()
        if is_done:
            self.note(self.arrival.source)
        return is_done

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        self.arrival.Wait()
        self.note(self.arrival.source)
