"""One training step on a device: what its two streams are given, by the host or as one graph.

Where messages and collectives are done in the order of streams (NCCL), or there are none, the host
only enqueues: the lanes are two streams, a wait is an event, and from the second turn on the whole
step is one graph. Where the host must carry messages (staged), it drives the communication lane
between compute ops, as on a CPU; events order the streams all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from exec.device.protocol import Call, Event, Graph, Stream
from exec.errors import UsageError
from exec.program.ops import Compute, Lane, Op, Receive, Send, Wait, lane_of
from exec.program.peers import AnyRank
from exec.program.program import Program
from exec.program.timeline import Span
from exec.runtime.comm import Queue, Wire
from exec.runtime.device_comm import DeviceComm
from exec.runtime.device_kernels import DeviceKernelBinder
from exec.runtime.lane import CommLane, CommStep
from exec.runtime.step import WAITING, bind_lanes, compute_positions
from exec.transport.device_transport import DeviceTransport
from exec.transport.protocol import Lock

_ENQUEUE_S = 40e-6
"""How long the host takes to enqueue an op, at most: for so long the streams are held for a clock."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A call of the host, and the lane on which it enqueues an op called ``name``, if it does."""

    lane: Lane
    name: str
    call: Call


@dataclass(slots=True)
class DeviceStep:
    """A bound program: ``run`` enqueues it once; nothing waits for its end."""

    transport: DeviceTransport
    compute: Stream
    comm: Stream
    entries: list[_Entry]
    is_ordered: bool
    lane: CommLane
    is_replayed: bool = True
    _runs: int = 0
    _sent_nbytes: int = 0
    _graph: Graph | None = None

    def run(self) -> None:
        """Enqueue the step."""
        if self._graph is not None:
            self._graph.launch(self.compute)
            if self._sent_nbytes:
                self.transport.count_again(self._sent_nbytes)
            return
        if (
            self.is_ordered and self.is_replayed and self._runs == 1
        ):  # the first turn has loaded all that is called
            before = self.transport.nbytes_sent
            self._graph = self.compute.capture(self._enqueue)
            self._sent_nbytes = self.transport.nbytes_sent - before
            self._graph.launch(self.compute)
        else:
            self._enqueue()
        self._runs += 1

    def _enqueue(self) -> None:
        self._fork()
        for entry in self.entries:
            entry.call()
        self._join()

    def _fork(self) -> None:
        self.lane.reset()
        self.comm.wait(self.compute.record())

    def _join(self) -> None:
        self.compute.wait(self.comm.record())

    def run_timed(self, spans: list[Span]) -> None:
        """Do the step, and append a span for each op, timed by the device.

        The streams are held until all is enqueued, so that no kernel waits for the host, unless
        the host has to carry messages meanwhile.
        """
        device, streams = self.compute.device, {Lane.COMPUTE: self.compute, Lane.COMM: self.comm}
        device.synchronize()
        began, origin_s = self.compute.record(is_timed=True), perf_counter()
        if self.is_ordered:
            microseconds = int(1e6 * _ENQUEUE_S * (len(self.entries) + 1))
            self.compute.bind_kernel("spin", "float32", (1,), (1,), microseconds)()
        self.lane.spans = None if self.is_ordered else spans
        self._fork()
        points: list[tuple[_Entry, Event, Event]] = []
        for entry in self.entries:
            if not entry.name:
                entry.call()
                continue
            stream = streams[entry.lane]
            before = stream.record(is_timed=True)
            entry.call()
            points.append((entry, before, stream.record(is_timed=True)))
        self._join()
        device.synchronize()
        self.lane.spans = None
        for entry, before, after in points:
            start_s = origin_s + device.elapsed_s(began, before)
            end_s = start_s + device.elapsed_s(before, after)
            spans.append(Span(self.transport.rank, entry.lane, entry.name, start_s, end_s))


@dataclass(slots=True)
class _DeviceLane(CommLane):
    """The communication lane driven by the host; whoever waited for it goes on behind it."""

    compute: Stream | None = None
    comm: Stream | None = None

    def run_through(self, last: int) -> None:
        """Return when step ``last``, and all before it, need nothing but their stream any more."""
        super(_DeviceLane, self).run_through(last)  # slots make another class
        assert self.compute is not None
        assert self.comm is not None
        self.compute.wait(self.comm.record())


def bind_device_step(
    program: Program, wire: Wire[DeviceTransport], binder: DeviceKernelBinder, queue: Queue, advance: Call,
    *, is_replayed: bool = True,
) -> DeviceStep:  # fmt: skip
    """Return what this rank does of ``program`` in one turn; ``advance`` is done last.

    Unless ``is_replayed`` the host enqueues every op in every turn, and makes no graph.
    """
    transport, compute = wire.transport, binder.stream
    ops = list(program.ops(transport.rank))
    comm = DeviceComm(wire, binder.buffers, transport.stream, queue)
    is_alone = not any(lane_of(op) is Lane.COMM for op in ops)
    is_ordered = (transport.is_ordered or is_alone) and not wire.locks
    if is_ordered:
        entries, lane = _ordered(ops, comm, binder), CommLane(transport.rank, [])
    else:
        entries, lane = _driven(transport.rank, ops, comm, binder, wire.locks)
    entries.append(_Entry(Lane.COMPUTE, "", advance))
    return DeviceStep(transport, compute, transport.stream, entries, is_ordered, lane, is_replayed)


def _ordered(ops: Sequence[Op], comm: DeviceComm, binder: DeviceKernelBinder) -> list[_Entry]:
    """Return the calls that enqueue ``ops``, in the order of the program."""
    streams = {Lane.COMPUTE: binder.stream, Lane.COMM: comm.stream}
    computed = compute_positions(ops)
    awaited = {(op.lane, op.id) for op in ops if isinstance(op, Wait)}
    sent = {op.id for op in ops if isinstance(op, Send)}
    entries: list[_Entry] = []

    def hold(id: str, stream: Stream) -> None:
        for request in comm.sent(id):
            request.hold(stream)

    def record(id: str, stream: Stream) -> None:
        comm.passed[id] = stream.record()

    def wait(id: str, stream: Stream) -> None:
        stream.wait(comm.passed[id])

    for op in ops:
        lane = lane_of(op)
        match op:
            case Compute():
                entries.append(_Entry(lane, op.id, binder.bind(op)))
                if (Lane.COMM, op.id) in awaited:
                    entries.append(_Entry(lane, "", partial(record, op.id, binder.stream)))
            case Wait(_, id):
                name = WAITING + id if lane is Lane.COMPUTE else ""
                call = partial(hold if id in sent else wait, id, streams[lane])
                entries.append(_Entry(lane, name, call))
            case Receive(peer=AnyRank()):
                raise UsageError(
                    f"transport must be mpi or threads where a message may come from any rank, got {comm.wire.transport.library}"
                )
            case _:
                entries.append(_Entry(lane, _name(op), _whole(op, comm)))
                id = getattr(op, "id", "")
                if (Lane.COMPUTE, id) in awaited and id not in sent and id not in computed:
                    entries.append(_Entry(lane, "", partial(record, id, comm.stream)))
    return entries


def _whole(op: Op, comm: DeviceComm) -> Call:
    """Return the call that does ``op``; unless it is posted, the stream goes on when it is done."""
    if (local := comm.local(op)) is not None:
        return local
    start = comm.start(op)
    return start if isinstance(op, Send) else lambda: start().hold(comm.stream)


def _driven(
    rank: int, ops: Sequence[Op], comm: DeviceComm, binder: DeviceKernelBinder, locks: dict[str, Lock]
) -> tuple[list[_Entry], CommLane]:  # fmt: skip
    """Return the calls of the compute lane, between which the host drives the other."""
    compute, gates = binder.stream, compute_positions(ops)
    awaited = {op.id for op in ops if isinstance(op, Wait) and op.lane is Lane.COMM}
    lane_ops = [op for op in ops if lane_of(op) is Lane.COMM]
    lane = _DeviceLane(rank, [_step(op, comm, gates) for op in lane_ops])
    lane.compute, lane.comm = compute, comm.stream

    def bind(op: Compute) -> Call:
        call = binder.bind(op)
        if op.id not in awaited:
            return call

        def call_and_record() -> None:
            call()
            comm.passed[op.id] = compute.record()

        return call_and_record

    def wait_sent(id: str) -> None:
        for request in comm.sent(id):
            request.hold(compute)

    held = {name: _Held(lock, compute) for name, lock in locks.items()}
    calls, names = bind_lanes(ops, lane, held, bind, wait_sent)
    return [_Entry(Lane.COMPUTE, name, call) for name, call in zip(names, calls, strict=True)], lane


@dataclass(slots=True)
class _Held:
    """A lock that is let go of when the stream has done what was to be done under it."""

    lock: Lock
    stream: Stream

    def acquire(self) -> None:
        self.lock.acquire()

    def release(self) -> None:
        self.stream.synchronize()
        self.lock.release()


def _step(op: Op, comm: DeviceComm, gates: dict[str, int]) -> CommStep:
    """Return ``op`` as a step of the lane that the host drives."""
    match op:
        case Wait(_, id) if id in gates:

            def wait() -> None:
                comm.stream.wait(comm.passed[id])

            return CommStep("", wait, wait, gate=gates[id])
        case Wait(_, id):

            def hold() -> None:
                for request in comm.sent(id):
                    request.hold(comm.stream)

            return CommStep("", hold, hold)
        case _:
            whole = _whole(op, comm)
            if isinstance(op, Send) or comm.local(op) is not None:
                return CommStep(_name(op), lambda: _none(whole), whole)
            return CommStep(_name(op), comm.start(op), whole)


def _none(call: Call) -> None:
    """Do ``call``, which leaves nothing to wait for."""
    call()


def _name(op: Op) -> str:
    match op:
        case Send(id):
            return f"send {id}"
        case Receive(id):
            return f"recv {id}"
        case _:
            return getattr(op, "id", type(op).__name__.lower())
