"""A log with random damage either still parses, to values that it shows, or is refused by name."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.importers.imb import read_imb
from calibration.importers.measured import Layout, Measured, Operation
from calibration.importers.osu import read_osu
from calibration.importers.table import read_table
from exec.errors import MachineError
from tests.calibration.importers.test_imb import WHOLE
from tests.calibration.importers.test_osu import ALLREDUCE, BANDWIDTH, LATENCY
from tests.calibration.importers.test_table import TABLE

OSU = ALLREDUCE + LATENCY + BANDWIDTH
LIKELY = ["\n", "\r\n", " ", "0", "9", ".", "N/A", "nan", "#", "-", "1e9", "# OSU MPI Latency Test v7.5\n", "\t", ","]  # fmt: skip
fuzz = settings(max_examples=150, deadline=None)


def damaged(valid: str) -> st.SearchStrategy[str]:
    patch = st.one_of(st.text(max_size=4), st.lists(st.sampled_from(LIKELY), max_size=4).map("".join))  # fmt: skip
    edits = st.lists(st.tuples(st.integers(0, len(valid)), st.integers(0, 30), patch), min_size=1, max_size=4)  # fmt: skip

    def apply(chosen: list[tuple[int, int, str]]) -> str:
        text = valid
        for start, removed, inserted in chosen:
            text = text[:start] + inserted + text[start + removed :]
        return text

    return st.one_of(edits.map(apply), st.integers(0, len(valid)).map(lambda end: valid[:end]))


def shows(text: str, found: tuple[Measured, ...]) -> None:
    """Hold that each time that was read is printed on the line that it says it is from."""
    lines = text.splitlines()
    for each in found:
        line = lines[int(each.place.rpartition(" ")[2]) - 1]
        numbers = [float(token) for token in re.findall(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", line)]
        asked = [each.time_s, each.time_s * 1e6]
        if each.operation is Operation.STREAM:
            asked.append(each.nbytes / each.time_s / 1e6)
        if each.operation is Operation.DUPLEX_STREAM:
            asked.append(2 * each.nbytes / each.time_s / 1e6)
        assert any(abs(a - number) <= 1e-9 * number for a in asked for number in numbers)


@contextmanager
def only_a_machine_error() -> Iterator[None]:
    """Let a MachineError about the log pass, and nothing else."""
    try:
        yield
    except MachineError as error:
        if not str(error).startswith("log"):
            raise


@fuzz
@given(damaged(OSU))
def test_osu(text: str) -> None:
    with only_a_machine_error():
        shows(text, read_osu(text, "log", Layout(4, 2)).measured)


@fuzz
@given(damaged(WHOLE))
def test_imb(text: str) -> None:
    with only_a_machine_error():
        shows(text, read_imb(text, "log", Layout(nodes=2)).measured)


@fuzz
@given(damaged(TABLE))
def test_tables(text: str) -> None:
    with only_a_machine_error():
        shows(text, read_table(text, "log", Layout(nodes=2)).measured)


@given(st.integers(0, len(WHOLE) - 2))
def test_imb_that_is_cut_anywhere_is_refused(end: int) -> None:
    try:
        read_imb(WHOLE[:end], "log", Layout(nodes=2))
    except MachineError:
        return
    assert WHOLE[:end].rstrip().endswith("MPI_Finalize")


@given(st.integers(0, len(ALLREDUCE)))
def test_osu_that_is_cut_within_a_line_of_numbers_is_refused(end: int) -> None:
    try:
        found = read_osu(ALLREDUCE[:end], "log", Layout(4, 2)).measured
    except MachineError:
        return
    whole = read_osu(ALLREDUCE, "log", Layout(4, 2)).measured
    assert found == whole[: len(found)]
    assert (
        ALLREDUCE[:end].rstrip(" ").endswith(("\n", "1000")) or "\n" not in ALLREDUCE[end:].strip()
    )
