"""The text form: one op a line, for reading, reviewing and golden files;
:mod:`exec.program.parse` reads it back.

Peers read ``dp+1``, ``dp-1k`` (moves with the iteration), ``dp^4`` (partner at distance 4),
``pp=2`` (absolute), ``any``, ``sender(push)`` (of that message), ``rank3``; ``dp+1%2`` goes round
a block of two. A part reads ``grad[0:100]``; with chunks, ``grad[0:100]/4@dp+0-1k`` is the chunk
named by the anchor out of 4, ``*2`` a block of two. Chunks ``/2x3`` are 6, those of the first
ranks of 3 nodes before those of the second.
"""

from exec.program.mesh import Axis
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
    Scope,
    Send,
    Wait,
)  # fmt: skip
from exec.program.peers import AnyRank, At, Part, Peer, Rank, Sender, Shift, Xor
from exec.program.program import Program


def format_program(program: Program) -> str:
    """Return ``program`` as text, one op a line."""
    lines = [
        f"program mesh={program.mesh} itemsize={program.itemsize}"
        + (f" workers={_format_range(program.workers)}" if program.workers else "")
        + (f" tickets={program.tickets}" if program.tickets else "")
        + " shared" * program.is_shared
        + (f"={program.sharers}" if program.sharers else "")
    ]
    for role in program.roles:
        spans = " ".join(f"{axis}={_format_range(role.span(axis))}" for axis in Axis)
        holds = ",".join(format_part(part) for part in role.holds)
        lines.append(
            f"role {role.name} {spans} slots={role.slots} samples={role.samples}"
            + (f" holds={holds}" if holds else "")
            + f" nbytes={role.nbytes}"
            + (f" times={role.times}" if role.times != 1 else "")
            + (f" until={role.until}" if role.until else "")
        )
        for op in role.ops:
            lines += format_op(op)
    return "\n".join(lines) + "\n"


def format_op(op: Op, indent: str = "  ") -> list[str]:
    """Return the line, or for a repeat the lines, of ``op``."""
    match op:
        case Compute(kernel, layer, microbatch, shape, flops, nbytes, part):
            return [f"{indent}compute {kernel} layer={layer} mb={microbatch} shape={shape} "
                    f"flops={flops} nbytes={nbytes}" + (f" part={format_part(part)}" if part else "")]  # fmt: skip
        case Send(id, part, peer, tag):
            return [
                f"{indent}comm send {format_part(part)} to={format_peer(peer)} tag={tag} id={id}"
            ]
        case Receive(id, part, peer, tag):
            return [
                f"{indent}comm receive {format_part(part)} from={format_peer(peer)} tag={tag} id={id}"
            ]
        case Accumulate(into, source, peer):
            window = "" if peer is None else f" of={format_peer(peer)}"
            return [f"{indent}comm accumulate {format_part(into)} += {format_part(source)}{window}"]
        case Scale(part, numerator, denominator):
            return [f"{indent}comm scale {format_part(part)} by={numerator}/{denominator}"]
        case Grant(part):
            return [f"{indent}comm grant {format_part(part)}"]
        case Collective(id, kind, part, axis, algorithm, root, node_size, scope):
            node = f"node_size={node_size} " if node_size > 1 else ""
            node += f"scope={scope} " if scope is not Scope.ALL else ""
            return [f"{indent}comm {kind} {format_part(part)} axis={axis} algorithm={algorithm} "
                    f"root={root} {node}id={id}"]  # fmt: skip
        case Mark(id):
            return [f"{indent}comm mark {id}"]
        case Wait(lane, id):
            return [f"{indent}{lane} wait {id}"]
        case Acquire(name):
            return [f"{indent}compute acquire {name}"]
        case Release(name):
            return [f"{indent}compute release {name}"]
        case Save(part, nbytes):
            return [f"{indent}compute save {format_part(part)} nbytes={nbytes}"]
        case Repeat(count, body):
            inner = [line for each in body for line in format_op(each, indent + "  ")]
            return [f"{indent}comm repeat {count}", *inner, f"{indent}comm end"]


def format_peer(peer: Peer) -> str:
    """Return the short form of ``peer``."""
    match peer:
        case Shift(axis, offset, step, block):
            moves = f"{step:+d}k" if step else ""
            return f"{axis}{offset:+d}{moves}" + (f"%{block}" if block else "")
        case Xor(axis, distance):
            return f"{axis}^{distance}"
        case At(axis, index):
            return f"{axis}={index}"
        case AnyRank():
            return "any"
        case Sender(id):
            return f"sender({id})"
        case Rank(rank):
            return f"rank{rank}"


def format_part(part: Part) -> str:
    """Return the short form of ``part``."""
    text = f"{part.buffer}[{part.start}:{part.stop}" + (f":{part.unit}]" if part.unit > 1 else "]")
    if part.chunks is None:
        return text
    chunks, node_size = part.chunks, part.chunks.node_size
    block = f"*{chunks.width}" if chunks.width > 1 else ""
    count = f"{node_size}x{chunks.num_chunks // node_size}" if node_size > 1 else chunks.num_chunks
    return f"{text}/{count}@{format_peer(chunks.anchor)}{block}"


def _format_range(span: range) -> str:
    if len(span) == 1:
        return str(span.start)
    return f"{span.start}:{span.stop}" + (f":{span.step}" if span.step > 1 else "")
