"""Laws of reading a plain table: every row, or an error that names the line."""

import pytest

from calibration.importers.measured import Layout, Measured, Operation
from calibration.importers.table import TableReading, read_table
from exec.errors import MachineError

TABLE = (
    "op,ranks,nodes,bytes,time_s,comment\nall_reduce,4,2,1024,1e-5,x\nallgather,4,2,1024,2e-5,y\n"
)


def read(text: str, layout: Layout = Layout(), operation: Operation | None = None) -> TableReading:
    return read_table(text, "t.csv", layout, operation)


def test_commas_and_tabs_are_read_alike_and_other_columns_named() -> None:
    found = read(TABLE)
    assert found.measured == (
        Measured(Operation.ALLREDUCE, 4, 2, 1024, 1e-5, "t.csv, line 2"),
        Measured(Operation.ALLGATHER, 4, 2, 1024, 2e-5, "t.csv, line 3"),
    )
    assert found.ignored == ("comment",)
    assert read(TABLE.replace(",", "\t").replace("\tline", ",line")).measured == found.measured
    assert read(TABLE.replace("\n", "\r\n")).measured == found.measured


def test_times_may_be_in_other_units_and_constants_be_given() -> None:
    text = "ranks,bytes,time_us\n4,8,10\n16,8,20\n"
    found = read(text, Layout(ranks_per_node=8), Operation.ALLREDUCE).measured
    assert [(each.nodes, each.time_s) for each in found] == [(1, 10e-6), (2, pytest.approx(20e-6))]


def test_rows_may_be_chosen() -> None:
    chosen = read_table(TABLE, "t.csv", where=[("comment", "y")])
    assert (len(chosen.measured), chosen.left_out, chosen.ignored) == (1, 1, ())
    with pytest.raises(MachineError, match="must have rows, got none where comment=z"):
        read_table(TABLE, "t.csv", where=[("comment", "z")])
    with pytest.raises(MachineError, match="line 1: the table must have a column colour"):
        read_table(TABLE, "t.csv", where=[("colour", "z")])


@pytest.mark.parametrize(
    "old, new, message",
    [
        (",nodes", ",knots", "line 1: the table must have a column nodes, .* or give --nodes"),
        ("op,", "what,", "line 1: the table must have a column op or .* --op"),
        ("time_s", "when", "line 1: the table must have a column time_s or time_ms"),
        ("comment", "op", "line 1: columns must have different names"),
        ("comment", "time_us", "line 1: the table must have one column for time"),
        (",x", "", "line 2: a row must have 6 columns, got 5"),
        ("1e-5", "fast", "line 2: time_s must be a number, got fast"),
        ("1e-5", "nan", "line 2: time_s must be finite and greater than 0"),
        ("1e-5", "-1", "line 2: time_s must be finite and greater than 0"),
        ("all_reduce", "all_seduce", "line 2: op must be one of all_reduce, .* got all_seduce"),
        ("all_reduce,4", "all_reduce,1", "line 2: ranks must be a whole number of at least 2, got 1"),
        ("all_reduce,4,2", "all_reduce,4,5", "line 2: nodes must be at most the 4 ranks, got 5"),
        ("1024,1e-5", "1.5,1e-5", "line 2: bytes must be a whole number of at least 0, got 1.5"),
        (",x", ',"x', "line [23]: unexpected end of data|line [23]: a row must have"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_is_refused_by_its_line(old: str, new: str, message: str) -> None:
    assert old in TABLE
    with pytest.raises(MachineError, match=message):
        read(TABLE.replace(old, new, 1))
