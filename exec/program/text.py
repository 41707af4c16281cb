"""The text form: one op a line, for reading, reviewing and golden files; it parses back.

Peers read ``dp+1``, ``dp-1k`` (moves with the iteration), ``dp^4`` (partner at distance 4),
``pp=2`` (absolute), ``any``, ``rank3``; ``dp+1%2`` goes round a block of two. A part reads
``grad[0:100]``; with chunks, ``grad[0:100]/4@dp+0-1k`` is the chunk named by the anchor out of 4,
``*2`` a block of two. Chunks ``/2x3`` are 6, those of the first ranks of 3 nodes before those of
the second.
"""

import re
from collections.abc import Iterator

from exec.errors import IllegalProgramError
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Repeat,
    Send,
    Shape,
    Wait,
    lane_of,
)  # fmt: skip
from exec.program.peers import AnyRank, At, Chunks, Part, Peer, Rank, Shift, Xor
from exec.program.program import Program, Role


def format_program(program: Program) -> str:
    """Return ``program`` as text, one op a line."""
    lines = [f"program mesh={program.mesh} itemsize={program.itemsize}"]
    for role in program.roles:
        spans = " ".join(f"{axis}={_format_range(role.span(axis))}" for axis in Axis)
        lines.append(f"role {role.name} {spans} slots={role.slots} nbytes={role.nbytes}")
        for op in role.ops:
            lines += format_op(op)
    return "\n".join(lines) + "\n"


def format_op(op: Op, indent: str = "  ") -> list[str]:
    """Return the line, or for a repeat the lines, of ``op``."""
    match op:
        case Compute(kernel, layer, microbatch, shape, flops, nbytes):
            return [f"{indent}compute {kernel} layer={layer} mb={microbatch} shape={shape} "
                    f"flops={flops} nbytes={nbytes}"]  # fmt: skip
        case Send(id, part, peer, tag):
            return [
                f"{indent}comm send {format_part(part)} to={format_peer(peer)} tag={tag} id={id}"
            ]
        case Receive(id, part, peer, tag):
            return [
                f"{indent}comm receive {format_part(part)} from={format_peer(peer)} tag={tag} id={id}"
            ]
        case Accumulate(into, source):
            return [f"{indent}comm accumulate {format_part(into)} += {format_part(source)}"]
        case Collective(id, kind, part, axis, algorithm, root, node_size):
            node = f"node_size={node_size} " if node_size > 1 else ""
            return [f"{indent}comm {kind} {format_part(part)} axis={axis} algorithm={algorithm} "
                    f"root={root} {node}id={id}"]  # fmt: skip
        case Mark(id):
            return [f"{indent}comm mark {id}"]
        case Wait(lane, id):
            return [f"{indent}{lane} wait {id}"]
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


_PEER = r"any|rank\d+|(?:dp|pp|tp)(?:[+-]\d+(?:[+-]\d+k)?(?:%\d+)?|\^\d+|=\d+)"
_PART = rf"[\w.]+\[\d+:\d+(?::\d+)?\](?:/\d+(?:x\d+)?@(?:{_PEER})(?:\*\d+)?)?"
_ID = r"[\w.]+"
_OP_PATTERNS = {
    "compute": re.compile(
        r"compute (?P<kernel>\w+) layer=(?P<layer>-?\d+) mb=(?P<mb>\d+) shape=(?P<n>\d+)x(?P<k>\d+)"
        r"x(?P<m>\d+) flops=(?P<flops>\d+) nbytes=(?P<nbytes>\d+)"
    ),
    "send": re.compile(rf"comm send (?P<part>{_PART}) to=(?P<peer>{_PEER}) tag=(?P<tag>\d+) id=(?P<id>{_ID})"),
    "receive": re.compile(
        rf"comm receive (?P<part>{_PART}) from=(?P<peer>{_PEER}) tag=(?P<tag>\d+) id=(?P<id>{_ID})"
    ),
    "accumulate": re.compile(rf"comm accumulate (?P<into>{_PART}) \+= (?P<source>{_PART})"),
    "collective": re.compile(
        rf"comm (?P<kind>{'|'.join(CollectiveKind)}) (?P<part>{_PART}) axis=(?P<axis>dp|pp|tp) "
        rf"algorithm=(?P<algorithm>\w+) root=(?P<root>\d+) (?:node_size=(?P<node_size>\d+) )?"
        rf"id=(?P<id>{_ID})"
    ),
    "mark": re.compile(rf"comm mark (?P<id>{_ID})"),
    "wait": re.compile(rf"(?P<lane>compute|comm) wait (?P<id>{_ID})"),
}  # fmt: skip
_HEADER = re.compile(r"program mesh=(\d+)x(\d+)x(\d+) itemsize=(\d+)")
_RANGE = r"\d+(?::\d+(?::\d+)?)?"
_ROLE = re.compile(
    rf"role (\S+) dp=({_RANGE}) pp=({_RANGE}) tp=({_RANGE}) slots=(\d+) nbytes=(\d+)"
)


def parse_program(text: str) -> Program:
    """Return the program that ``text`` spells, the inverse of :func:`format_program`.

    Raises:
        IllegalProgramError: a line is not an op; the message names the line.
    """
    lines = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip())
    number, first = next(lines, (1, ""))
    header = _HEADER.fullmatch(first)
    if header is None:
        raise IllegalProgramError(
            f"line {number} must be 'program mesh=DxPxT itemsize=N', got {first!r}"
        )
    dp, pp, tp, itemsize = map(int, header.groups())
    if min(dp, pp, tp, itemsize) < 1:
        raise IllegalProgramError(f"line {number} must have sizes of at least 1, got {first!r}")
    heads: list[tuple[str, list[range], int, int]] = []
    bodies: list[list[Op]] = []
    for number, line in lines:
        role = _ROLE.fullmatch(line)
        if role is not None:
            name, *spans, slots, nbytes = role.groups()
            try:
                heads.append(
                    (name, [_parse_range(span) for span in spans], int(slots), int(nbytes))
                )
            except ValueError as error:
                raise IllegalProgramError(f"line {number}: {error}, got {line!r}") from error
            bodies.append([])
        elif not heads:
            raise IllegalProgramError(f"line {number} must open a role, got {line!r}")
        else:
            bodies[-1].append(_parse_op(number, line, lines))
    roles = (
        Role(name, dp_span, pp_span, tp_span, tuple(ops), slots, nbytes)
        for (name, (dp_span, pp_span, tp_span), slots, nbytes), ops in zip(
            heads, bodies, strict=True
        )
    )
    return Program(Mesh(dp, pp, tp), itemsize, tuple(roles))


def _parse_op(number: int, line: str, lines: Iterator[tuple[int, str]]) -> Op:
    if (repeat := re.fullmatch(r"comm repeat (\d+)", line)) is not None:
        body: list[Op] = []
        for inner_number, inner in lines:
            if inner == "comm end":
                return Repeat(int(repeat[1]), tuple(body))
            op = _parse_op(inner_number, inner, lines)
            if isinstance(op, Repeat) or lane_of(op) is Lane.COMPUTE:
                raise IllegalProgramError(
                    f"line {inner_number} must be an op of the communication lane, and no repeat, "
                    f"inside a repeat, got {inner!r}"
                )
            body.append(op)
        raise IllegalProgramError(f"line {number}: the repeat must be closed by 'comm end'")
    for verb, pattern in _OP_PATTERNS.items():
        if (match := pattern.fullmatch(line)) is not None:
            try:
                return _build_op(verb, match.groupdict())
            except ValueError as error:
                raise IllegalProgramError(f"line {number}: {error}, got {line!r}") from error
    raise IllegalProgramError(f"line {number} must be an op, got {line!r}")


def _build_op(verb: str, field: dict[str, str]) -> Op:
    match verb:
        case "compute":
            shape = Shape(int(field["n"]), int(field["k"]), int(field["m"]))
            return Compute(Kernel(field["kernel"]), int(field["layer"]), int(field["mb"]), shape,
                           int(field["flops"]), int(field["nbytes"]))  # fmt: skip
        case "send" | "receive":
            part, peer = _parse_part(field["part"]), _parse_peer(field["peer"])
            kind = Send if verb == "send" else Receive
            return kind(field["id"], part, peer, int(field["tag"]))
        case "accumulate":
            return Accumulate(_parse_part(field["into"]), _parse_part(field["source"]))
        case "collective":
            return Collective(field["id"], CollectiveKind(field["kind"]), _parse_part(field["part"]),
                              Axis(field["axis"]), Algorithm(field["algorithm"]),
                              int(field["root"]), int(field["node_size"] or 1))  # fmt: skip
        case "mark":
            return Mark(field["id"])
        case _:
            return Wait(Lane(field["lane"]), field["id"])


def _parse_range(text: str) -> range:
    numbers = [int(number) for number in text.split(":")]
    return range(*numbers) if len(numbers) > 1 else range(numbers[0], numbers[0] + 1)


def _parse_peer(text: str) -> Peer:
    if text == "any":
        return AnyRank()
    if text.startswith("rank"):
        return Rank(int(text[4:]))
    axis, rest = Axis(text[:2]), text[2:]
    if rest[0] == "^":
        return Xor(axis, int(rest[1:]))
    if rest[0] == "=":
        return At(axis, int(rest[1:]))
    offset, step, block = re.fullmatch(r"([+-]\d+)(?:([+-]\d+)k)?(?:%(\d+))?", rest).groups()  # type: ignore[union-attr]  # _PEER matched
    return Shift(axis, int(offset), int(step or 0), int(block or 0))


def _parse_part(text: str) -> Part:
    plain, _, chunked = text.partition("/")
    buffer, _, numbers = plain.rstrip("]").partition("[")
    start, stop, unit = map(int, (numbers + ":1").split(":")[:3])
    chunks = None
    if chunked:
        count, _, rest = chunked.partition("@")
        anchor_text, _, width = rest.partition("*")
        anchor = _parse_peer(anchor_text)
        if not isinstance(anchor, Shift | Xor):
            raise ValueError(
                f"the anchor of a chunk must be a shift or a partner, got {anchor_text}"
            )
        node_size, _, nodes = count.rpartition("x")
        chunks = Chunks(
            int(nodes) * int(node_size or 1), anchor, int(width or "1"), int(node_size or 1)
        )
    return Part(buffer, start, stop, unit, chunks)
