"""The text form read back: the inverse of :mod:`exec.program.text`."""

import re
from collections.abc import Iterator
from dataclasses import replace

from exec.errors import IllegalProgramError
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Acquire,
    Algorithm,
    Collective,
    CollectiveKind,
    Compute,
    Grant,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Release,
    Repeat,
    Save,
    Scale,
    Scope,
    Send,
    Shape,
    Wait,
    lane_of,
)
from exec.program.peers import AnyRank, At, Chunks, Part, Peer, Rank, Sender, Shift, Xor
from exec.program.program import Program, Role

_PEER = r"any|sender\([\w.]+\)|rank\d+|(?:dp|pp|tp)(?:[+-]\d+(?:[+-]\d+k)?(?:%\d+)?|\^\d+|=\d+)"
_PART = rf"[\w.]+\[\d+:\d+(?::\d+)?\](?:/\d+(?:x\d+)?@(?:{_PEER})(?:\*\d+)?)?"
_ID = r"[\w.]+"
_OP_PATTERNS = {
    "compute": re.compile(
        r"compute (?P<kernel>\w+) layer=(?P<layer>-?\d+) mb=(?P<mb>\d+) "
        r"shape=(?P<shape>\d+x\d+x\d+(?:@\d+x\d+x\d+)?) flops=(?P<flops>\d+) nbytes=(?P<nbytes>\d+)"
        rf"(?: part=(?P<part>{_PART}))?"
    ),
    "send": re.compile(rf"comm send (?P<part>{_PART}) to=(?P<peer>{_PEER}) tag=(?P<tag>\d+) id=(?P<id>{_ID})"),
    "receive": re.compile(
        rf"comm receive (?P<part>{_PART}) from=(?P<peer>{_PEER}) tag=(?P<tag>\d+) id=(?P<id>{_ID})"
    ),
    "accumulate": re.compile(
        rf"comm accumulate (?P<into>{_PART}) \+= (?P<source>{_PART})(?: of=(?P<peer>{_PEER}))?"
    ),
    "scale": re.compile(
        rf"comm scale (?P<part>{_PART}) by=(?P<numerator>\d+)/(?P<denominator>[1-9]\d*)"
    ),
    "grant": re.compile(rf"comm grant (?P<part>{_PART})"),
    "collective": re.compile(
        rf"comm (?P<kind>{'|'.join(CollectiveKind)}) (?P<part>{_PART}) axis=(?P<axis>dp|pp|tp) "
        rf"algorithm=(?P<algorithm>\w+) root=(?P<root>\d+) (?:node_size=(?P<node_size>\d+) )?"
        rf"(?:scope=(?P<scope>{'|'.join(Scope)}) )?id=(?P<id>{_ID})"
    ),
    "mark": re.compile(rf"comm mark (?P<id>{_ID})"),
    "wait": re.compile(rf"(?P<lane>compute|comm) wait (?P<id>{_ID})"),
    "acquire": re.compile(r"compute acquire (?P<name>\w+)"),
    "release": re.compile(r"compute release (?P<name>\w+)"),
    "save": re.compile(rf"compute save (?P<part>{_PART}) nbytes=(?P<nbytes>\d+)"),
}  # fmt: skip
_RANGE = r"\d+(?::\d+(?::\d+)?)?"
_HEADER = re.compile(
    r"program mesh=(?P<dp>\d+)x(?P<pp>\d+)x(?P<tp>\d+) itemsize=(?P<itemsize>\d+)"
    rf"(?: workers=(?P<workers>{_RANGE}))?(?: tickets=(?P<tickets>\d+))?(?P<shared> shared(?:=(?P<sharers>\d+))?)?"
)
_ROLE = re.compile(
    rf"role (?P<name>\S+) dp=(?P<dp>{_RANGE}) pp=(?P<pp>{_RANGE}) tp=(?P<tp>{_RANGE}) "
    rf"slots=(?P<slots>\d+)(?: samples=(?P<samples>\d+))?(?: holds=(?P<holds>{_PART}(?:,{_PART})*))? "
    rf"nbytes=(?P<nbytes>\d+)(?: times=(?P<times>\d+))?(?: until=(?P<until>{_ID}))?"
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
    sizes = [int(header[name]) for name in ("dp", "pp", "tp", "itemsize")]
    if min(sizes) < 1:
        raise IllegalProgramError(f"line {number} must have sizes of at least 1, got {first!r}")
    heads: list[Role] = []
    bodies: list[list[Op]] = []
    for number, line in lines:
        found = _ROLE.fullmatch(line)
        if found is not None:
            try:
                heads.append(_parse_role(found.groupdict()))
            except ValueError as error:
                raise IllegalProgramError(f"line {number}: {error}, got {line!r}") from error
            bodies.append([])
        elif not heads:
            raise IllegalProgramError(f"line {number} must open a role, got {line!r}")
        else:
            bodies[-1].append(_parse_op(number, line, lines))
    roles = (replace(role, ops=tuple(ops)) for role, ops in zip(heads, bodies, strict=True))
    return Program(
        Mesh(*sizes[:3]), sizes[3], tuple(roles), _parse_range(header["workers"] or "0:0"),
        int(header["tickets"] or 0), bool(header["shared"]), int(header["sharers"] or 0),
    )  # fmt: skip


def _parse_role(field: dict[str, str]) -> Role:
    holds = tuple(_parse_part(part) for part in (field["holds"] or "").split(",") if part)
    return Role(
        field["name"], _parse_range(field["dp"]), _parse_range(field["pp"]), _parse_range(field["tp"]), ops=(), slots=int(field["slots"]), samples=int(field["samples"] or 1),
        holds=holds, nbytes=int(field["nbytes"]), times=int(field["times"] or 1),
        until=field["until"] or "",
    )  # fmt: skip


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
            shape = Shape(*map(int, re.split("[x@]", field["shape"])))
            part = _parse_part(field["part"]) if field["part"] else None
            return Compute(Kernel(field["kernel"]), int(field["layer"]), int(field["mb"]), shape,
                           int(field["flops"]), int(field["nbytes"]), part)  # fmt: skip
        case "send" | "receive":
            part, peer = _parse_part(field["part"]), _parse_peer(field["peer"])
            kind = Send if verb == "send" else Receive
            return kind(field["id"], part, peer, int(field["tag"]))
        case "accumulate":
            window = _parse_peer(field["peer"]) if field["peer"] else None
            return Accumulate(_parse_part(field["into"]), _parse_part(field["source"]), window)
        case "scale":
            factor = int(field["numerator"]), int(field["denominator"])
            return Scale(_parse_part(field["part"]), *factor)
        case "grant":
            return Grant(_parse_part(field["part"]))
        case "collective":
            return Collective(field["id"], CollectiveKind(field["kind"]), _parse_part(field["part"]),
                              Axis(field["axis"]), Algorithm(field["algorithm"]),
                              int(field["root"]), int(field["node_size"] or 1),
                              Scope(field["scope"] or Scope.ALL))  # fmt: skip
        case "mark":
            return Mark(field["id"])
        case "acquire":
            return Acquire(field["name"])
        case "release":
            return Release(field["name"])
        case "save":
            return Save(_parse_part(field["part"]), int(field["nbytes"]))
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
    if text.startswith("sender"):
        return Sender(text[len("sender(") : -1])
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
