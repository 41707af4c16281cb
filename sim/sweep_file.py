"""The file of a sweep of forecasts: JSON lines, what they stand on first, then one point a line."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json  # a tenth of the time of the standard library's

from exec.errors import SweepError
from exec.sweeps.cells import key_of
from exec.sweeps.journal import open_alone

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PointFile:
    """A file that is open and locked; ``lines`` are the points that it held at the start."""

    fd: int
    path: Path
    lines: tuple[Line, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The points that are finished."""
        return frozenset(key_of(line["cell"]) for line in self.lines)

    def append(self, lines: Sequence[Line]) -> None:
        """Append ``lines``, and return when they are on the disk."""
        text = b"".join(to_json(line) + b"\n" for line in lines)
        try:
            if os.write(self.fd, text) < len(text):
                raise SweepError(f"out {self.path} cannot be written: the disk is full")
            os.fsync(self.fd)
        except OSError as error:
            raise SweepError(f"out {self.path} cannot be written: {error.strerror}") from error


@contextmanager
def open_points(path: Path, header: Mapping[str, Any]) -> Iterator[PointFile]:
    """Open ``path``, new or one that a sweep of the same ``header`` began, for this process alone.

    A line that a crash has torn is dropped.

    Raises:
        SweepError: the file is another sweep's, cannot be written, or another process writes it.
    """
    with open_alone(path) as fd:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        found = _parse(whole, path)
        os.ftruncate(fd, len(whole))
        if found:
            _check_same(found[0], header, path)
        opened = PointFile(fd, path, tuple(found[1:]))
        if not found:
            opened.append([dict(header)])
        yield opened


def write_csv(path: Path, lines: Sequence[Line]) -> None:
    """Write ``lines`` as a table: the cell's values, then the outcome's.

    Raises:
        SweepError: the file cannot be written.
    """
    rows = [
        line["cell"]
        | {name: value for name, value in line.items() if name not in ("kind", "cell", "breakdown")}
        | line.get("breakdown", {})
        for line in lines
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise SweepError(f"csv {path} cannot be written: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> list[Line]:
    found: list[Line] = []
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = from_json(text)
            is_known = line["kind"] == ("provenance" if number == 1 else "point")
        except (ValueError, TypeError, KeyError):
            is_known = False
        if not is_known:
            raise SweepError(f"out must be a new file or one of sim.sweep, got {path}, whose line {number} is neither")  # fmt: skip
        found.append(line)
    return found


def _check_same(found: Line, header: Mapping[str, Any], path: Path) -> None:
    for what in ("of", "engine", "intervals", "axes", "machines", "nets"):
        theirs, ours = found.get(what), header[what]
        if isinstance(ours, dict) and isinstance(theirs, dict):  # more of them may be asked
            shared = theirs.keys() & ours.keys()
            theirs, ours = ({name: each[name] for name in shared} for each in (theirs, ours))
        if theirs != ours:
            raise SweepError(f"out must be a file of this sweep, got {path}, whose {what} are {theirs}, not {ours}; name another file")  # fmt: skip
