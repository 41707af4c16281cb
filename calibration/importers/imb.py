"""Intel MPI Benchmarks (IMB-MPI1): several tables in a file, each over its own number of ranks.

They print their ranks, but not over how many nodes those are. A bandwidth is printed beside the
time of a message, in MB up from the 2018 version and in MiB before: it must agree with the time in
one of the two, throughout the file. The run says when it ends; a log without that was cut.
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
from calibration.importers.measured import Layout, Measured, Operation, Reading
from exec.errors import MachineError

_BENCHMARK = re.compile(r"#\s*Benchmarking\s+(\S+)")
_PROCESSES = re.compile(r"#\s*#processes\s*=\s*(\d+)")
_GROUPS = re.compile(r"#\s*\(\s*\d+ groups of \d+ processes")
_END = re.compile(r"#\s*All processes entering MPI_Finalize")
_UNITS = (1e6, 2.0**20)
_ROUNDING = 0.006
_EXCUSES = ("N/A", "nan", "inf", "out-of-mem.;", "time-out.;", "int-overflow.;")


class _Kind(NamedTuple):
    operation: Operation
    messages: int = 0  # how many each rank passes in the time, of which the bandwidth is
    is_share: bool = False


_KINDS = {
    "PingPong": _Kind(Operation.PINGPONG, 1),
    "PingPing": _Kind(Operation.PINGPING, 1),
    "Sendrecv": _Kind(Operation.SENDRECV, 2),
    "Exchange": _Kind(Operation.EXCHANGE, 4),
    "Allreduce": _Kind(Operation.ALLREDUCE),
    "Reduce": _Kind(Operation.REDUCE),
    "Reduce_scatter": _Kind(Operation.REDUCE_SCATTER),
    "Allgather": _Kind(Operation.ALLGATHER, is_share=True),
    "Gather": _Kind(Operation.GATHER, is_share=True),
    "Scatter": _Kind(Operation.SCATTER, is_share=True),
    "Alltoall": _Kind(Operation.ALLTOALL, is_share=True),
    "Bcast": _Kind(Operation.BROADCAST),
    "Barrier": _Kind(Operation.BARRIER),
}


def is_imb(text: str) -> bool:
    """Say whether ``text`` has a table of IMB's."""
    return any(_BENCHMARK.match(TAG.sub("", line).strip()) for line in text.splitlines())


def read_imb(text: str, name: str, layout: Layout = Layout()) -> Reading:
    """Return what all tables in ``text`` measured, over the nodes that ``layout`` says.

    Raises:
        MachineError: not all of it can be read; the message names the line.
    """
    reader = _Reader(name, layout)
    measured = tuple(reader.read(text.splitlines()))
    return Reading(measured, dict(reader.passed_over))


@dataclass(slots=True)
class _Reader:
    name: str
    given: Layout
    benchmark: str = ""
    ranks: int | None = None
    columns: list[str] = field(default_factory=list)
    decimals: Decimals = field(default_factory=Decimals)
    last: int = -1
    num_rows: int = 0
    sizes: dict[str, set[int]] = field(default_factory=dict)  # of the tables of this run
    units: set[float] = field(default_factory=lambda: set(_UNITS))
    passed_over: Counter[str] = field(default_factory=Counter)

    def read(self, lines: Sequence[str]) -> Iterator[Measured]:
        place = f"{self.name}, line 1"
        has_tables = has_end = False
        for number, raw in enumerate(lines, 1):
            place = f"{self.name}, line {number}"
            line = TAG.sub("", raw).strip()
            tokens = line.split()
            if (benchmark := _BENCHMARK.match(line)) is not None:
                self._end(place)
                self.benchmark, self.ranks, self.columns = benchmark[1], None, []
                has_tables, has_end = True, False
            elif (processes := _PROCESSES.match(line)) is not None:
                self.ranks = int(processes[1])
            elif _GROUPS.match(line):
                refuse(place, "groups that run at once cannot be read; run IMB without -multi")
            elif _END.match(line):
                self._end(place)
                self._check_sizes(place)
                has_end = True
            elif self.benchmark and tokens[:1] in (["#bytes"], ["#repetitions"]):
                if "#repetitions" not in tokens or len(set(tokens)) != len(tokens):
                    refuse(
                        place,
                        f"a table must have a column #repetitions and others once, got {line}",
                    )
                self.columns, self.decimals, self.last, self.num_rows = tokens, Decimals(), -1, 0
            elif self.columns and is_row(tokens, _EXCUSES):
                yield from self._row(tokens, place)
        if not has_tables:
            raise MachineError(f"{self.name} must have a table of IMB, got none")
        if not has_end:
            refuse(
                place, "IMB must end with 'All processes entering MPI_Finalize'; was the log cut?"
            )

    def _row(self, tokens: Sequence[str], place: str) -> Iterator[Measured]:
        cells = {
            column: self.decimals.number(token, column, place)
            for column, token in row_cells(tokens, self.columns, place).items()
        }
        nbytes = int(cells.get("#bytes", 0))
        if "#bytes" in cells and nbytes <= self.last:
            refuse(place, f"#bytes must grow from row to row, got {nbytes} after {self.last}")
        if cells["#repetitions"] < 1:
            refuse(place, f"#repetitions must be at least 1, got {cells['#repetitions']:.0f}")
        self.last = nbytes
        self.num_rows += 1
        if "#bytes" in cells:
            self.sizes.setdefault(f"{self.benchmark} of {self.ranks}", set()).add(nbytes)
        kind = _KINDS.get(self.benchmark)
        if kind is None:
            self.passed_over[f"IMB {self.benchmark}"] += 1
            return
        if self.ranks is None:
            refuse(place, "a table must say its #processes, got none")
        if self.ranks < 2:
            refuse(place, f"ranks must be at least 2, got {self.ranks}")
        nodes = self.given.nodes_of(self.ranks)
        if nodes is None:
            refuse(place, "IMB does not say on how many nodes it ran; give --nodes or --tier")
        yield self._measured(kind, cells, nbytes, nodes, place)

    def _measured(
        self, kind: _Kind, cells: dict[str, float], nbytes: int, nodes: int, place: str
    ) -> Measured:
        assert self.ranks is not None
        if nodes > self.ranks:
            refuse(place, f"nodes must be at most the {self.ranks} ranks, got {nodes}")
        time_us = cells.get("t_avg[usec]", cells.get("t[usec]"))
        if time_us is None:
            refuse(place, f"a table must have t[usec] or t_avg[usec], got {' '.join(self.columns)}")
        positive_number(time_us, "the time", place)
        least_us, most_us = cells.get("t_min[usec]"), cells.get("t_max[usec]")
        check_mean(least_us, time_us, most_us, "t_avg", place)
        if kind.messages and "Mbytes/sec" in cells:
            # IMB takes the slowest rank's time for it.
            self._check(kind.messages * nbytes / (most_us or time_us), cells["Mbytes/sec"], place)
        return Measured(
            kind.operation, self.ranks, nodes, nbytes * (self.ranks if kind.is_share else 1),
            time_us / 1e6, place,
            least_s=None if least_us is None else least_us / 1e6,
            most_s=None if most_us is None else most_us / 1e6,
        )  # fmt: skip

    def _check(self, bytes_per_us: float, printed: float, place: str) -> None:
        """Keep the units in which ``printed`` is that bandwidth; there must be one."""
        agreeing = {
            unit for unit in self.units
            if abs(bytes_per_us * 1e6 / unit - printed) <= _ROUNDING + _ROUNDING * printed
        }  # fmt: skip
        if not agreeing:
            refuse(place, f"Mbytes/sec must be {bytes_per_us:.2f} or, in MiB, {bytes_per_us * 1e6 / 2**20:.2f} as above, got {printed}")  # fmt: skip
        self.units = agreeing

    def _check_sizes(self, place: str) -> None:
        """Hold that no table lacks a size that others of its run have: its line would be lost."""
        everywhere = set[int]().union(*self.sizes.values())
        for table, own in self.sizes.items():
            lost = {size for size in everywhere - own if min(own) < size < max(own)}
            # Sums are of whole numbers, so they begin with the empty one and then with four bytes.
            lost -= {1, 2} if 0 in own else set()
            if lost:
                refuse(place, f"the table of {table} ranks must have a row of {min(lost)} bytes as others do; was a line cut out?")  # fmt: skip
        self.sizes = {}

    def _end(self, place: str) -> None:
        if self.benchmark and not self.num_rows:
            refuse(place, f"a table of {self.benchmark} must have rows, got none")
        self.benchmark, self.columns, self.num_rows = "", [], 0
