"""The ops of the communication lane, bound to arrays and to the transport."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from exec.nn.backend import xp
from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Collective,
    CollectiveKind,
    Compute,
    Mark,
    Op,
    Receive,
    Repeat,
    Send,
    Wait,
)
from exec.program.peers import Part, Rank, split_size
from exec.program.program import Program
from exec.runtime.buffers import Buffers
from exec.runtime.lane import CommStep
from exec.transport.protocol import Buffer, Request, Transport


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


@dataclass(slots=True)
class CommBinder:
    """Binds the ops of the communication lane; ``gates`` says how many compute ops each id is.

    Collectives in ``awaited_at_once`` are done in the blocking form, on every rank.
    """

    wire: Wire
    buffers: Buffers
    gates: dict[str, int]
    awaited_at_once: set[str]
    _sent: dict[str, Request] = field(default_factory=dict)

    def wait_sent(self, id: str) -> None:
        """Return when the send called ``id`` is done."""
        self._sent.pop(id).Wait()

    def bind(self, op: Op) -> CommStep:
        """Return ``op`` as a step of the lane."""
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
        arguments = (op.kind, array, counts, op.root)
        start = partial(group.start_collective, *arguments)
        if op.id in self.awaited_at_once:
            return CommStep(op.id, start, partial(group.run_collective, *arguments))
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
