"""OSU micro-benchmarks 5 to 7: what ``osu_latency``, ``osu_allreduce`` and their sisters print.

They do not print their ranks. Where the log has the line that started them it says so, else the
user must. Sizes double from row to row and columns keep their decimals: what breaks that was cut,
and is an error that names the line.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from calibration.importers.cells import (
    TAG,
    Decimals,
    check_mean,
    is_row,
    positive_number,
    refuse,
    row_cells,
)
from calibration.importers.launched import layout_of
from calibration.importers.measured import Layout, Measured, Operation, Reading
from exec.errors import MachineError

_TITLE = re.compile(r"#\s*OSU\s+(.*?)\s+Test\b(?:\s+v([\d.]+))?")
_LIBRARY = re.compile(r"^MPI(?:-\w+)?\s+")
_COLUMN = re.compile(r"[^\s()]+(?: [^\s()]+)* ?\([^)]*\)|\S+")
_EXCUSES = ("N/A", "nan", "inf", "-")
_BYTES = {"MB/s": 1e6, "MiB/s": 2.0**20, "GB/s": 1e9}


class _Kind(NamedTuple):
    operation: Operation
    is_pair: bool = False
    is_share: bool = False  # its size is what one rank has, or sends to one other


_KINDS = {
    "Latency": _Kind(Operation.PINGPONG, is_pair=True),
    "Bandwidth": _Kind(Operation.STREAM, is_pair=True),
    "Bi-Directional Bandwidth": _Kind(Operation.DUPLEX_STREAM, is_pair=True),
    "Allreduce Latency": _Kind(Operation.ALLREDUCE),
    "Allgather Latency": _Kind(Operation.ALLGATHER, is_share=True),
    "Reduce_scatter Latency": _Kind(Operation.REDUCE_SCATTER),
    "Broadcast Latency": _Kind(Operation.BROADCAST),
    "Reduce Latency": _Kind(Operation.REDUCE),
    "Gather Latency": _Kind(Operation.GATHER, is_share=True),
    "Scatter Latency": _Kind(Operation.SCATTER, is_share=True),
    "All-to-All Personalized Exchange Latency": _Kind(Operation.ALLTOALL, is_share=True),
    "Barrier Latency": _Kind(Operation.BARRIER),
}


def is_osu(text: str) -> bool:
    """Say whether ``text`` has a title of OSU's."""
    return any(_TITLE.match(TAG.sub("", line).strip()) for line in text.splitlines())


def read_osu(text: str, name: str, layout: Layout = Layout()) -> Reading:
    """Return what all tables in ``text`` measured; ``layout`` is theirs if it does not say.

    Raises:
        MachineError: not all of it can be read; the message names the line.
    """
    reader = _Reader(name, layout)
    measured = tuple(reader.read(text))
    return Reading(measured, dict(reader.passed_over))


@dataclass(slots=True)
class _Reader:
    name: str
    given: Layout
    launched: Layout = field(default_factory=Layout)
    title: str = ""
    columns: list[str] = field(default_factory=list)
    decimals: Decimals = field(default_factory=Decimals)
    last: int | None = None
    num_rows: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)

    def read(self, text: str) -> Iterator[Measured]:
        lines = text.splitlines()
        place = f"{self.name}, line 1"
        has_tables = False
        for number, raw in enumerate(lines, 1):
            place = f"{self.name}, line {number}"
            line = TAG.sub("", raw).strip()
            if (launched := layout_of(line)) is not None:
                self.launched = launched
            if (title := _TITLE.match(line)) is not None:
                self._end(place)
                self.title, self.columns = _LIBRARY.sub("", title[1]), []
                has_tables = True
            elif self.title and not self.columns and (found := self._header(line)):
                self.columns, self.decimals, self.last, self.num_rows = found, Decimals(), None, 0
            elif self.columns and is_row(line.split(), _EXCUSES):
                if number == len(lines) and not text.endswith(("\n", "\r")):
                    refuse(place, "the last row must end with its line, else a digit may be cut off")  # fmt: skip
                yield from self._row(line.split(), place)
        self._end(place)
        if not has_tables:
            raise MachineError(f"{self.name} must have a table of OSU micro-benchmarks, got none")

    def _header(self, line: str) -> list[str]:
        """Return the columns that ``line`` names; a barrier's have no size."""
        columns = _COLUMN.findall(line.lstrip("#"))
        is_header = line.startswith("#") and columns and (
            columns[0] == "Size" or "Avg Latency(us)" in columns
        )  # fmt: skip
        return columns if is_header else []

    def _row(self, tokens: Sequence[str], place: str) -> Iterator[Measured]:
        cells = row_cells(tokens, self.columns, place)
        self.num_rows += 1
        size = int(cells["Size"]) if "Size" in cells and cells["Size"].isdecimal() else 0
        if "Size" in cells and not cells["Size"].isdecimal():
            refuse(place, f"Size must be a whole number, got {cells['Size']}")
        if self.last and size != 2 * self.last:
            refuse(place, f"sizes must double from row to row, got {size} after {self.last}; was a line cut out?")  # fmt: skip
        self.last = size
        if cells.get("Validation", "Pass") not in ("Pass", "-"):
            refuse(place, f"Validation must be Pass, got {cells['Validation']}")
        kind = _KINDS.get(self.title)
        if kind is None:
            self.passed_over[f"OSU {self.title}"] += 1
            return
        ranks, nodes = self._layout(kind, place)
        yield self._measured(kind, cells, size, ranks, nodes, place)

    def _measured(
        self, kind: _Kind, cells: dict[str, str], size: int, ranks: int, nodes: int, place: str
    ) -> Measured:
        def microseconds(*names: str) -> float | None:
            for name in names:
                if name in cells:
                    number = self.decimals.number(cells[name], name, place)
                    return positive_number(number, name, place)
            return None

        mean_us = microseconds("Avg Latency(us)", "Latency (us)", "Latency(us)", "Avg Lat(us)")
        time_s = None if mean_us is None else mean_us / 1e6
        if kind.operation in (Operation.STREAM, Operation.DUPLEX_STREAM):
            time_s = self._streamed_s(cells, size, kind.operation, place)
        if time_s is None:
            refuse(place, f"a table of {self.title} must have a column of latencies, got {', '.join(self.columns)}")  # fmt: skip
        least_us = microseconds("Min Latency(us)", "Min Lat(us)")
        most_us = microseconds("Max Latency(us)", "Max Lat(us)")
        check_mean(least_us, mean_us, most_us, "the mean", place)
        least_s = None if least_us is None else least_us / 1e6
        most_s = None if most_us is None else most_us / 1e6
        nbytes = size * ranks if kind.is_share else size
        return Measured(kind.operation, ranks, nodes, nbytes, time_s, place, least_s=least_s, most_s=most_s)  # fmt: skip

    def _streamed_s(
        self, cells: dict[str, str], size: int, operation: Operation, place: str
    ) -> float:
        rates = {
            name: factor
            for unit, factor in _BYTES.items()
            for name in (f"Bandwidth ({unit})", f"Bandwidth({unit})", unit)
            if name in cells
        }
        if not rates:
            refuse(place, f"a table of {self.title} must have a bandwidth in {', '.join(_BYTES)}, got {', '.join(self.columns)}")  # fmt: skip
        name, factor = next(iter(rates.items()))
        rate = positive_number(self.decimals.number(cells[name], name, place), name, place)
        return size * (2 if operation is Operation.DUPLEX_STREAM else 1) / (rate * factor)

    def _layout(self, kind: _Kind, place: str) -> tuple[int, int]:
        ranks = 2 if kind.is_pair else self.launched.ranks or self.given.ranks
        if ranks is None:
            refuse(place, "OSU does not say on how many ranks it ran; give --ranks")
        if ranks < 2:
            refuse(place, f"ranks must be at least 2, got {ranks}")
        nodes = self.launched.nodes_of(ranks) or self.given.nodes_of(ranks)
        if nodes is None:
            refuse(place, "OSU does not say on how many nodes it ran; give --nodes or --tier")
        if nodes > ranks:
            refuse(place, f"nodes must be at most the {ranks} ranks, got {nodes}")
        return ranks, nodes

    def _end(self, place: str) -> None:
        if self.title and not self.num_rows:
            refuse(place, f"a table of {self.title} must have rows, got none")
        self.title, self.columns, self.num_rows = "", [], 0
