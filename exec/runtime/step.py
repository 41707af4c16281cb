"""One training step of one rank: its program bound to arrays and a transport, then just done."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from exec.nn.backend import xp
from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Collective,
    CollectiveKind,
    Compute,
    Lane,
    Mark,
    Op,
    Receive,
    Repeat,
    Send,
    Wait,
    lane_of,
)  # fmt: skip
from exec.program.peers import Part, Rank, split_size
from exec.program.program import Program
from exec.program.timeline import Span
from exec.runtime.buffers import Buffers
from exec.runtime.kernels import Call, KernelBinder
from exec.runtime.lane import CommLane, CommStep
from exec.transport.protocol import Buffer, Request, Transport

WAITING = "wait "


@dataclass(slots=True)
class Step:
    """A bound program: ``run`` does it once.

    ``calls`` is what the compute lane does, in order; the communication lane is looked at
    between them where it could have something to do.
    """

    calls: list[Call]
    names: list[str]
    lane: CommLane

    def run(self) -> None:
        """Do the step."""
        self.lane.reset()
        for call in self.calls:
            call()

    def run_timed(self, spans: list[Span]) -> None:
        """Do the step, and append a span for each op."""
        self.lane.reset()
        self.lane.spans = spans
        clock = perf_counter
        times_s = [clock()]
        for call in self.calls:
            call()
            times_s.append(clock())
        self.lane.spans = None
        spans += [
            Span(self.lane.rank, Lane.COMPUTE, name, start_s, end_s)
            for name, start_s, end_s in zip(self.names, times_s, times_s[1:], strict=False)
        ]


@dataclass(slots=True)
class Wire:
    """The transport and the groups along each axis, for the rank's comm ops."""

    transport: Transport
    groups: dict[Axis, Transport] = field(default_factory=dict)

    @classmethod
    def connect(cls, transport: Transport, program: Program) -> "Wire":
        """Make the groups that ``program`` needs; all ranks must call it together."""
        mesh = program.mesh
        used = {op.axis for role in program.roles for op in role.ops if isinstance(op, Collective)}
        return cls(transport, {
            axis: transport.split(mesh.group(transport.rank, axis)[0])
            for axis in Axis
            if axis in used
        })  # fmt: skip


def bind_step(program: Program, wire: Wire, buffers: Buffers, binder: KernelBinder) -> Step:
    """Return what this rank does of ``program``, bound to its arrays."""
    rank = wire.transport.rank
    ops = list(program.ops(rank))
    gates = _compute_positions(ops)
    comm = _CommBinder(wire, buffers, gates)
    steps: list[CommStep] = []
    calls: list[Call] = []
    names: list[str] = []
    lane = CommLane(rank, steps)
    last_of = _last_positions(ops)
    num_computed = 0
    num_ended = 0  # steps of the lane that are certainly done at this point
    lane_ops = [op for op in ops if lane_of(op) is Lane.COMM]
    steps += [comm.bind(op) for op in lane_ops]
    for op in ops:
        if isinstance(op, Compute):
            calls.append(binder.bind(op))
            names.append(op.id)
            num_computed += 1
            if num_ended < len(steps) and steps[num_ended].gate <= num_computed:
                calls.append(partial(lane.poll, num_computed))
                names.append("poll")
        elif isinstance(op, Wait) and op.lane is Lane.COMPUTE:
            target = last_of[op.id]
            if target >= num_ended:
                calls.append(partial(lane.run_through, target))
                names.append(WAITING + op.id)
                num_ended = target + 1
            if isinstance(lane_ops[target], Send):
                calls.append(partial(comm.wait_sent, op.id))
                names.append(WAITING + op.id)
    if num_ended < len(steps):
        calls.append(partial(lane.run_through, len(steps) - 1))
        names.append(WAITING + "end")
    return Step(calls, names, lane)


def _compute_positions(ops: list[Op]) -> dict[str, int]:
    """Return how many compute ops are behind when each is done."""
    computed = [op.id for op in ops if isinstance(op, Compute)]
    return {id: i + 1 for i, id in enumerate(computed)}


def _last_positions(ops: list[Op]) -> dict[str, int]:
    """Return where in the communication lane each id is done, or if a send, posted."""
    lane_ops = [op for op in ops if lane_of(op) is Lane.COMM]
    return {
        op.id: i
        for i, op in enumerate(lane_ops)
        if isinstance(op, Receive | Collective | Mark | Send)
    }


@dataclass(slots=True)
class _CommBinder:
    wire: Wire
    buffers: Buffers
    gates: dict[str, int]
    _sent: dict[str, Request] = field(default_factory=dict)

    def wait_sent(self, id: str) -> None:
        """Return when the send called ``id`` is done."""
        self._sent.pop(id).Wait()

    def bind(self, op: Op) -> CommStep:
        match op:
            case Send(id, part, peer, tag):
                assert isinstance(peer, Rank)
                return self._send(id, self.buffers.part(part), peer.rank, tag)
            case Receive(id, part, peer, tag):
                source = peer.rank if isinstance(peer, Rank) else None
                array, transport = self.buffers.part(part), self.wire.transport
                start = partial(transport.receive, array, source, tag)
                return CommStep(f"recv {id}", start, lambda: start().Wait())
            case Accumulate(into, source_part):
                out, addend = self.buffers.part(into), self.buffers.part(source_part)
                add = partial(xp.add, out, addend, out=out)
                return CommStep("accumulate", _immediate(add), add)
            case Collective():
                return self._collective(op)
            case Wait(_, id) if id in self.gates:
                return CommStep("", _nothing, _nothing, gate=self.gates[id])
            case Wait(_, id):
                return CommStep("", lambda: self._sent.pop(id), partial(self.wait_sent, id))
            case Mark():
                return CommStep("", _nothing, _nothing)
            case Compute() | Repeat():
                raise ValueError(f"{op} must not be on the communication lane")

    def _send(self, id: str, array: Buffer, dest: int, tag: int) -> CommStep:
        transport, sent = self.wire.transport, self._sent

        def start() -> None:
            sent[id] = transport.send(array, dest, tag)

        return CommStep(f"send {id}", start, start)

    def _collective(self, op: Collective) -> CommStep:
        group = self.wire.groups[op.axis]
        array = self.buffers.part(op.part)
        counts = _shares(op.part, group.size) if op.kind in _SHARED else []
        start = partial(group.start_collective, op.kind, array, counts, op.root)
        # Never the blocking form: one rank may begin this op while polling and another while
        # waiting for it, and MPI does not match a blocking with a non-blocking collective (MPI 4.1,
        # section 6.12).
        return CommStep(op.id, start, lambda: start().Wait())


_SHARED = (CollectiveKind.ALLGATHER, CollectiveKind.REDUCE_SCATTER)


def _shares(part: Part, size: int) -> list[int]:
    units = (part.stop - part.start) // part.unit
    return [split_size(units, size, rank) * part.unit for rank in range(size)]


def _nothing() -> None:
    return


def _immediate(call: Callable[[], object]) -> Callable[[], None]:
    def start() -> None:
        call()

    return start
