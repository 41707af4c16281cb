"""The file of a sweep: JSON lines, the provenance first, then one cell a line as each is finished.

A line is written in one go and is on the disk before the next cell starts. A crash can tear the
last line only; it is dropped, and its cell runs again.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from exec.errors import SweepError
from exec.sweeps.cells import Cell, Scalar, key_of

_FIRST = '{"kind": "provenance", "of": "sweep", '


class Header(BaseModel):
    """The first line: what all cells share, and where, when and by what command they were run."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    kind: Literal["provenance"] = "provenance"
    of: Literal["sweep"] = "sweep"
    transport: Literal["mpi", "threads"]
    axes: tuple[str, ...]
    fixed: dict[str, Scalar]
    cpu: str


class Epoch(BaseModel):
    """What the figures need of an epoch."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    time_s: float
    test_accuracy: float


class Record(BaseModel):
    """What the figures need of the trainer's record."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    ranks: int
    net: str
    data: str
    oversubscribed: bool
    epochs: tuple[Epoch, ...] = Field(min_length=1)


class Line(BaseModel):
    """A finished cell: the trainer's record, or the message with which it refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["cell"] = "cell"
    cell: Cell
    record: Record | None = None
    refused: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.record is None) == (self.refused is None):
            raise ValueError("it must have a record or a refusal")
        if not all(type(self.cell.get(name)) is int for name in ("ranks", "seed")):
            raise ValueError("its ranks and seed must be whole numbers")
        return self


@dataclass(frozen=True, slots=True)
class Journal:
    """The whole lines of a file: ``texts`` as they stand there, the header's too."""

    header: Header
    lines: tuple[Line, ...]
    texts: tuple[str, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The cells that are finished."""
        return frozenset(key_of(line.cell) for line in self.lines)

    @property
    def nbytes(self) -> int:
        """Where the whole lines end, and a torn one begins."""
        return sum(len(text.encode()) + 1 for text in self.texts)


def read_journal(path: Path) -> Journal:
    """Return the whole lines of ``path``.

    Raises:
        SweepError: it cannot be read, or is no sweep's file; the message names the line.
    """
    found = _parse(_read(path), path)
    if found is None:
        raise SweepError(f"out must be the file of a sweep, got {path}, which has no whole line")
    return found


@contextmanager
def open_alone(path: Path) -> Iterator[int]:
    """Open ``path``, made if it is not there, to read and append, for this process alone.

    Raises:
        SweepError: it cannot be written, keeps nothing, or another process is writing it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise SweepError(f"out {path} cannot be written: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SweepError(f"out must be a file that keeps what is written, got {path}")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(f"out must be one sweep's at a time, got {path}, which another is writing") from error  # fmt: skip
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_journal(path: Path, header: Header) -> Iterator["Writer"]:
    """Open ``path``, new or one that ``header``'s sweep began, for this process alone.

    Raises:
        SweepError: the file is another sweep's, or another process is writing it.
    """
    with open_alone(path) as fd:
        found = _parse(_read(path), path)
        if found is None:
            os.ftruncate(fd, 0)
            writer = Writer(fd, path, frozenset())
            writer.append(header.model_dump())
        else:
            _check_same(found.header, header, path)
            os.ftruncate(fd, found.nbytes)
            writer = Writer(fd, path, found.keys)
        yield writer


@dataclass(frozen=True, slots=True)
class Writer:
    """A sweep's file, open and locked; ``done`` are the cells that it held at the start."""

    fd: int
    path: Path
    done: frozenset[str]

    def append(self, line: Mapping[str, Any]) -> None:
        """Append ``line``, and return when it is on the disk."""
        encoded = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            if os.write(self.fd, encoded) < len(encoded):
                raise SweepError(f"out {self.path} cannot be written: the disk is full")
            os.fsync(self.fd)
        except OSError as error:
            raise SweepError(f"out {self.path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SweepError(f"out {path} cannot be read: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> Journal | None:
    """Return the whole lines in ``content``, or None if not even the header is whole."""
    *whole, torn = content.split(b"\n")
    first = _FIRST.encode()
    if not whole and (first.startswith(torn) or torn.startswith(first)):
        return None
    try:
        header = Header.model_validate_json(whole[0] if whole else torn)
    except ValidationError as error:
        raise SweepError(f"out must be a new file or a sweep's, got {path}, whose first line is no sweep's provenance") from error  # fmt: skip
    lines: dict[str, Line] = {}
    for number, text in enumerate(whole[1:], 2):
        try:
            line = Line.model_validate_json(text)
        except ValidationError as error:
            if number == len(whole) and not torn:  # a crash may leave zeros for what it tore
                whole.pop()
                break
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise SweepError(f"{path}, line {number} must be a cell: {problem}") from error
        if lines.setdefault(key_of(line.cell), line) is not line:
            raise SweepError(f"{path}, line {number} must not repeat a cell; delete the line")
    return Journal(header, tuple(lines.values()), tuple(text.decode() for text in whole))


def _check_same(found: Header, header: Header, path: Path) -> None:
    for what in ("transport", "axes", "fixed", "cpu"):
        theirs, ours = getattr(found, what), getattr(header, what)
        if what == "axes":
            theirs, ours = sorted(theirs), sorted(ours)
        if theirs != ours:
            raise SweepError(
                f"out must be a file of this sweep, got {path}, whose {what} {_is(what)} {_words(theirs)}, "
                f"not {_words(ours)}; name another file"
            )


def _is(what: str) -> str:
    return "are" if what in ("axes", "fixed") else "is"


def _words(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {each}" for name, each in value.items()) or "nothing"
        case list():
            return ", ".join(value)
        case _:
            return str(value)
