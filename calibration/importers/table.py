"""A plain table of measurements: CSV or TSV with a header, for what no benchmark's log holds.

Columns are ``op, ranks, nodes, bytes, time_s``; a time may be ``time_ms`` or ``time_us`` instead, a
size ``nbytes``. Others are ignored, by name. Where all rows have the same operation or lie alike on
nodes, the user may say so instead of a column.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

from calibration.importers.cells import refuse
from calibration.importers.measured import Layout, Measured, Operation
from exec.errors import MachineError

_TIMES = {"time_s": 1.0, "time_ms": 1e3, "time_us": 1e6}
_NAMES = {
    "op": ("op", "operation", "collective"),
    "ranks": ("ranks", "gpus", "processes"),
    "nodes": ("nodes",),
    "nbytes": ("bytes", "nbytes", "size"),
}
_ALIASES = {
    "allreduce": Operation.ALLREDUCE, "allgather": Operation.ALLGATHER, "bcast": Operation.BROADCAST,
    "reducescatter": Operation.REDUCE_SCATTER, "all_to_all": Operation.ALLTOALL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableReading:
    """The rows of a table, and the columns that were ignored."""

    measured: tuple[Measured, ...]
    ignored: tuple[str, ...]
    left_out: int = 0


def read_table(
    text: str, name: str, layout: Layout = Layout(), operation: Operation | None = None,
    where: Sequence[tuple[str, str]] = (),
) -> TableReading:  # fmt: skip
    """Return the rows of ``text`` in which each column of ``where`` has its value.

    Raises:
        MachineError: not all of it can be read; the message names the line.
    """
    lines = text.splitlines()
    if not lines:
        raise MachineError(f"{name} must have a header and rows, got nothing")
    delimiter = "\t" if "\t" in lines[0] else ","
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(rows)]
        columns = _columns(header, name, layout, operation)
        for column, _ in where:
            if column not in header:
                refuse(f"{name}, line 1", f"the table must have a column {column}, got {', '.join(header)}")  # fmt: skip
        found: list[Measured] = []
        left_out = 0
        for cells in rows:
            place = f"{name}, line {rows.line_num}"
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if len(cells) != len(header):
                refuse(place, f"a row must have {len(header)} columns, got {len(cells)}")
            row = {key: cell.strip() for key, cell in zip(header, cells, strict=True)}
            if any(row[column] != value for column, value in where):
                left_out += 1
                continue
            found.append(_row(row, columns, place, layout, operation))
    except csv.Error as error:
        raise MachineError(f"{name}, line {rows.line_num}: {error}") from error
    if not found:
        raise MachineError(f"{name} must have rows, got none" + (" where " + ", ".join(f"{c}={v}" for c, v in where) if where else ""))  # fmt: skip
    used = {*columns.values(), *(column for column, _ in where)}
    return TableReading(tuple(found), tuple(c for c in header if c not in used), left_out)


def _columns(
    header: Sequence[str], name: str, layout: Layout, operation: Operation | None
) -> dict[str, str]:
    """Return the column of each quantity that there is one for."""
    place = f"{name}, line 1"
    if len(set(header)) != len(header):
        refuse(place, f"columns must have different names, got {', '.join(header)}")
    found: dict[str, str] = {}
    for quantity, names in (*_NAMES.items(), ("time", tuple(_TIMES))):
        present = [each for each in names if each in header]
        if len(present) > 1:
            refuse(place, f"the table must have one column for {quantity}, got {', '.join(present)}")  # fmt: skip
        if present:
            found[quantity] = present[0]
    given = {
        "op": operation is not None, "ranks": layout.ranks is not None,
        "nodes": layout.nodes is not None or layout.ranks_per_node is not None,
    }  # fmt: skip
    options = {"op": "--op", "ranks": "--ranks", "nodes": "--nodes, --ranks-per-node or --tier"}
    for quantity in (*_NAMES, "time"):
        if quantity not in found and not given.get(quantity):
            wanted = " or ".join(_NAMES.get(quantity, tuple(_TIMES)))
            hint = f"; add it or give {options[quantity]}" if quantity in options else ""
            refuse(place, f"the table must have a column {wanted}, got {', '.join(header)}{hint}")
    return found


def _row(
    row: dict[str, str], columns: dict[str, str], place: str, layout: Layout,
    operation: Operation | None,
) -> Measured:  # fmt: skip
    def whole(quantity: str, least: int) -> int | None:
        if quantity not in columns:
            return None
        cell = row[columns[quantity]]
        if not cell.isdecimal() or int(cell) < least:
            refuse(place, f"{columns[quantity]} must be a whole number of at least {least}, got {cell or 'nothing'}")  # fmt: skip
        return int(cell)

    ranks = whole("ranks", 2) or layout.ranks
    assert ranks is not None
    nodes = whole("nodes", 1) or layout.nodes_of(ranks)
    nbytes = whole("nbytes", 0)
    assert nodes is not None
    assert nbytes is not None
    if ranks < 2:
        refuse(place, f"ranks must be at least 2, got {ranks}")
    if nodes > ranks:
        refuse(place, f"nodes must be at most the {ranks} ranks, got {nodes}")
    cell = row[columns["time"]]
    try:
        time_s = float(cell) / _TIMES[columns["time"]]
    except ValueError:
        refuse(place, f"{columns['time']} must be a number, got {cell or 'nothing'}")
    if not 0 < time_s < math.inf:
        refuse(place, f"{columns['time']} must be finite and greater than 0, got {cell}")
    return Measured(_operation(row, columns, place, operation), ranks, nodes, nbytes, time_s, place)


def _operation(
    row: dict[str, str], columns: dict[str, str], place: str, operation: Operation | None
) -> Operation:
    if "op" not in columns:
        assert operation is not None
        return operation
    cell = row[columns["op"]].lower().replace("-", "_")
    if cell in _ALIASES:
        return _ALIASES[cell]
    try:
        return Operation(cell)
    except ValueError:
        refuse(place, f"{columns['op']} must be one of {', '.join(Operation)}, got {cell or 'nothing'}")  # fmt: skip
