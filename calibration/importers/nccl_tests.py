"""nccl-tests: the tables that ``all_reduce_perf`` and its sisters print, and the JSON of their -J.

A table is read by the names of its columns, so old and new ones are. Between its lines may stand
whatever ranks print. What cannot be read whole is an error that names the line: a line that is cut,
a table without an end, numbers that contradict each other.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from calibration.importers.measured import Measured, Operation, bus_factor
from exec.errors import MachineError

_TAG = re.compile(r"^\s*(\[[\d,]+\]<\w+>:?|\d+:(?=\s*#))\s?")
_DEVICE = re.compile(r"#\s+Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\b")
_PROGRAM = re.compile(r"\b(" + "|".join(Operation) + r")_perf\b")
_LIMITS = re.compile(r"#\s*nThread\b.*\bmaxBytes\s+(\d+)(?:\s+step:\s*(\d+)\((factor|bytes)\))?")
_END = re.compile(r"#\s*(Out of bounds values|Avg bus bandwidth)\b")
_UNITS = re.compile(r"#(\s+\(\S+\))+")
_KNOWN_UNITS = {"(B)", "(elements)", "(us)", "(GB/s)", "(%)"}
_LARGE = 1 << 16
_ROUNDING = 0.006  # of a bandwidth that is printed with two decimals
_TIME_ROUNDING = 0.01  # of a time that is printed with three digits at least


def read_nccl_tests(path: Path, operation: Operation | None = None) -> list[Measured]:
    """Return all measurements in ``path``; ``operation`` is theirs if it does not say.

    Raises:
        MachineError: it cannot be read, or not all of it; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"measurements {path} cannot be read: {error}") from error
    if text.lstrip().startswith("{"):
        return list(_read_json(text, str(path), operation))
    return list(_Reader(str(path), operation).read(text.splitlines()))


@dataclass(slots=True)
class _Row:
    place: str
    nbytes: int
    redop: str
    root: str
    times_us: tuple[float, float]
    algbw: tuple[float, float]
    busbw: tuple[float, float]


@dataclass(slots=True)
class _Reader:
    """A log read line by line; what it knows of the run is forgotten when a table ends."""

    name: str
    given: Operation | None
    operation: Operation | None = None
    ranks: set[int] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    most_bytes: int | None = None
    factor: int | None = None  # from one size to the next
    columns: list[str] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)
    is_past: bool = False  # the run that is known has had its table

    def read(self, lines: Sequence[str]) -> Iterator[Measured]:
        place = f"{self.name}, line 1"
        has_tables = False
        for number, raw in enumerate(lines, 1):
            place = f"{self.name}, line {number}"
            line = _TAG.sub("", raw).strip()
            if line.startswith("#"):
                if self.columns and _END.match(line):
                    yield from self._finish(place, has_end=True)
                    has_tables = True
                    continue
                columns = line.lstrip("#").split()
                if columns[:2] == ["size", "count"] and "algbw" in columns:
                    yield from self._finish(place, has_end=False)
                    self._start(columns, place)
                    continue
                if self.columns and _UNITS.fullmatch(line):
                    _check_units(line, place)
            if self.columns:
                if (row := self._row(line, place)) is not None:
                    self.rows.append(row)
            else:
                self._note(line)
        if self.columns:
            yield from self._finish(place, has_end=False)
            has_tables = True
        if not has_tables:
            raise MachineError(f"{self.name} must have a table of nccl-tests, got none")

    def _note(self, line: str) -> None:
        """Note what a line outside of tables tells of the run to come."""
        device, program, limits = _DEVICE.match(line), _PROGRAM.search(line), _LIMITS.match(line)
        if self.is_past and (program is not None or limits is not None or device is not None):
            if program is not None and "concluded" in line:
                return
            self.operation, self.ranks, self.hosts = None, set(), set()
            self.most_bytes = self.factor = None
            self.is_past = False
        if device is not None:
            self.ranks.add(int(device[1]))
            self.hosts.add(device[2])
        if program is not None:
            self.operation = Operation(program[1])
        if limits is not None:
            self.most_bytes = int(limits[1])
            self.factor = int(limits[2]) if limits[3] == "factor" else None

    def _start(self, columns: list[str], place: str) -> None:
        for name in ("time", "algbw", "busbw"):
            if columns.count(name) != 2:
                _refuse(place, f"a table must have {name} out of place and in place, got columns {' '.join(columns)}")  # fmt: skip
        self.columns, self.rows = columns, []

    def _row(self, line: str, place: str) -> _Row | None:
        """Return the row in ``line``, or None if it is something else that was printed."""
        tokens = line.split()
        if not tokens or not tokens[0].isdigit():
            return None
        if len(tokens) > 1 and not tokens[1].isdigit():
            return None
        has_stamp = self.columns[-1] == "timestamp"
        expected = len(self.columns) + has_stamp  # a date and a time of day
        if len(tokens) != expected:
            _refuse(place, f"a row must have {expected} columns, got {len(tokens)}: {line}")
        cells: dict[str, list[str]] = {}
        for name, token in zip(self.columns, tokens, strict=False):
            cells.setdefault(name, []).append(token)
        if any(wrong not in ("0", "N/A") for wrong in cells.get("#wrong", [])):
            _refuse(place, f"#wrong must be 0, got {' and '.join(cells['#wrong'])}: what was summed was not right")  # fmt: skip
        try:
            times, algbw, busbw = (
                (float(cells[name][0]), float(cells[name][1]))
                for name in ("time", "algbw", "busbw")
            )
        except ValueError as error:
            _refuse(place, f"times and bandwidths must be numbers: {error}")
        redop, root = cells.get("redop", [""])[0], cells.get("root", ["-1"])[0]
        return _Row(place, int(tokens[0]), redop, root, times, algbw, busbw)

    def _finish(self, place: str, *, has_end: bool) -> Iterator[Measured]:
        if not self.columns:
            return
        rows, self.columns, self.is_past = self.rows, [], True
        if not rows:
            _refuse(place, "a table must have rows, got none")
        last = rows[-1].nbytes
        if not has_end and (self.most_bytes is None or last < self.most_bytes):
            until = "its last lines" if self.most_bytes is None else f"{self.most_bytes} bytes"
            _refuse(place, f"a table must go on to {until}, got an end after {last} bytes")
        for before, after in pairwise(rows):
            # Sizes are rounded to whole shares, which says little of large ones.
            if self.factor and before.nbytes >= _LARGE and after.nbytes > 1.1 * self.factor * before.nbytes:  # fmt: skip
                _refuse(after.place, f"a row of {self.factor * before.nbytes} bytes must come before, got {after.nbytes} after {before.nbytes}")  # fmt: skip
        if not self.ranks:
            _refuse(place, "a table must come after the list of its devices, got none")
        ranks = max(self.ranks) + 1
        yield from _measured(rows, self.given or self.operation, ranks, len(self.hosts))


def _measured(
    rows: Sequence[_Row], operation: Operation | None, ranks: int, nodes: int
) -> Iterator[Measured]:
    """Yield what ``rows`` measured, once their numbers agree."""
    if ranks < 2:
        _refuse(rows[0].place, f"ranks must be at least 2, got {ranks}")
    operation = operation or _guessed(rows, ranks)
    factor = bus_factor(operation, ranks)
    for row in rows:
        for time_us, algbw, busbw in zip(row.times_us, row.algbw, row.busbw, strict=True):
            if not time_us > 0:
                _refuse(row.place, f"a time must be positive, got {time_us}")
            expected = row.nbytes / time_us * 1e-3
            if abs(algbw - expected) > _ROUNDING + _TIME_ROUNDING * expected:
                _refuse(row.place, f"algbw must be {expected:.2f} GB/s, {row.nbytes} bytes in {time_us} us, got {algbw}")  # fmt: skip
            if abs(busbw - factor * expected) > _ROUNDING + _TIME_ROUNDING * expected:
                _refuse(row.place, f"busbw must be {factor:.4g} times algbw for {operation} of {ranks} ranks, got {busbw} and {algbw}")  # fmt: skip
        yield Measured(
            operation, ranks, nodes, row.nbytes, row.times_us[0] / 1e6, row.place,
            row.algbw[0] * 1e9, row.busbw[0] * 1e9, row.times_us[1] / 1e6,
        )  # fmt: skip


def _check_units(line: str, place: str) -> None:
    other = [each for each in line.lstrip("#").split() if each not in _KNOWN_UNITS]
    if other:
        _refuse(place, f"units must be B, us and GB/s, got {' '.join(other)}")


def _guessed(rows: Sequence[_Row], ranks: int) -> Operation:
    """Return the one operation that reduces and sends as ``rows`` say."""
    widest = max(rows, key=lambda row: row.busbw[0])
    reduces, has_root = widest.redop not in ("", "none"), widest.root != "-1"
    kinds = {
        (True, False): (Operation.ALLREDUCE, Operation.REDUCE_SCATTER, Operation.SENDRECV),
        (True, True): (Operation.REDUCE,),
        (False, True): (Operation.BROADCAST, Operation.GATHER, Operation.SCATTER),
        (False, False): (Operation.ALLGATHER, Operation.ALLTOALL),
    }[reduces, has_root]
    ratio = widest.busbw[0] / max(widest.algbw[0], 1e-9)
    fitting = [each for each in kinds if abs(bus_factor(each, ranks) / ratio - 1) < _TIME_ROUNDING]
    if len(fitting) != 1:
        names = " or ".join(fitting) or "none"
        _refuse(rows[0].place, f"the table must name its operation, which could be {names}; give --operation")  # fmt: skip
    return fitting[0]


def _read_json(text: str, name: str, given: Operation | None) -> Iterator[Measured]:
    try:
        document = json.loads(text)
        config, results = document["config"], document["results"]
        program = _PROGRAM.search(" ".join(map(str, document.get("args", []))))
        devices = config["devices"]
        rows = [_json_row(result, f"{name}, result {i}") for i, result in enumerate(results, 1)]
        per_process = int(config.get("nthreads", 1)) * int(config.get("ngpus", 1))
        listed = {int(device["rank"]) for device in devices}
        hosts = {str(device["hostname"]) for device in devices}
    except json.JSONDecodeError as error:
        raise MachineError(f"{name}, line {error.lineno} must be JSON: {error.msg}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise MachineError(f"{name} must be JSON of nccl-tests: {error!r} is missing or wrong") from error  # fmt: skip
    if not rows or not listed:
        raise MachineError(f"{name} must have results and devices, got {len(rows)} and {len(listed)}")  # fmt: skip
    is_whole = len(listed) == max(listed) + 1 > 1  # else only the first device of each process
    ranks = max(listed) + (1 if is_whole else per_process)
    yield from _measured(rows, given or (Operation(program[1]) if program else None), ranks, len(hosts))  # fmt: skip


def _json_row(result: dict[str, Any], place: str) -> _Row:
    bodies = [result["out_of_place"], result["in_place"]]
    for body in bodies:
        if body is None or "time" not in body:
            _refuse(place, "a result must have times out of place and in place")
        if body["nwrong"]:
            _refuse(place, f"nwrong must be 0, got {body['nwrong']}: what was summed was not right")

    def both(key: str) -> tuple[float, float]:
        return float(bodies[0][key]), float(bodies[1][key])

    return _Row(
        place, int(result["size"]), str(result["redop"]), str(result["root"]).strip(),
        both("time"), both("alg_bw"), both("bus_bw"),
    )  # fmt: skip


def _refuse(place: str, problem: str) -> NoReturn:
    raise MachineError(f"{place}: {problem}")
