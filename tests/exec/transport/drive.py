"""The lanes of a program on an ordered transport: what waits for what, and no numbers."""

from collections import defaultdict

from exec.device.protocol import Event
from exec.program.mesh import Axis
from exec.program.ops import Collective, CollectiveKind, Compute, Lane, Mark, Receive, Send, Wait
from exec.program.peers import Part, Rank, split_size
from exec.program.program import Program
from exec.transport.device_transport import DeviceRequest
from exec.transport.nccl import NcclTransport

SHARED = (CollectiveKind.ALLGATHER, CollectiveKind.REDUCE_SCATTER)


def drive(program: Program, wire: NcclTransport) -> None:
    """Enqueue what this rank does of ``program``, with compute ops that take no time."""
    device, comm, compute = wire.device, wire.stream, wire.device.stream()
    streams = {Lane.COMPUTE: compute, Lane.COMM: comm}
    axes = {op.axis for role in program.roles for op in role.ops if isinstance(op, Collective)}
    groups = {
        axis: wire.split(program.mesh.group(wire.rank, axis)[0]) for axis in Axis if axis in axes
    }
    ops = [*program.ops(wire.rank)] * program.role_of(wire.rank).times
    parts = [op.part for op in ops if isinstance(op, Send | Receive | Collective)]
    sizes: dict[str, int] = defaultdict(int)
    for part in parts:
        sizes[part.buffer] = max(sizes[part.buffer], part.stop)
    arrays = {name: device.empty(size, "float32") for name, size in sizes.items()}
    sent: dict[str, list[DeviceRequest]] = defaultdict(list)
    passed: dict[str, Event] = {}

    def array_of(part: Part):  # a device's array
        return arrays[part.buffer][part.start : part.stop]

    for op in ops:
        match op:
            case Send(id, part, Rank(dest), tag):
                sent[id].append(wire.send(array_of(part), dest, tag))
            case Receive(id, part, Rank(source), tag):
                wire.receive(array_of(part), source, tag)
                passed[id] = comm.record()
            case Collective(id, kind, part, axis):
                group = groups[axis]
                units = part.size // part.unit
                counts = [split_size(units, group.size, r) * part.unit for r in range(group.size)]
                shares = counts if kind in SHARED else []
                group.run_collective(kind, array_of(part), shares, op.root)
                passed[id] = comm.record()
            case Compute():
                passed[op.id] = compute.record()
            case Mark(id):
                passed[id] = comm.record()
            case Wait(lane, id) if id in sent:
                for request in sent.pop(id):
                    request.hold(streams[lane])
            case Wait(lane, id):
                streams[lane].wait(passed[id])
            case _:
                pass
    device.synchronize()
