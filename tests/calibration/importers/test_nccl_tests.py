"""Laws of reading nccl-tests: every number as it was printed, or an error that names the line."""

import json
import os
from pathlib import Path

import pytest

from calibration.__main__ import app
from calibration.importers.links import links_of
from calibration.importers.measured import Measured, Operation, bus_factor
from calibration.importers.nccl_tests import read_nccl_tests
from calibration.machine import Tier, read_machine
from exec.errors import MachineError
from sim.collectives import library_allreduce_s
from tests.conftest import ROOT, run_here

NEW = "size count type redop root time algbw busbw #wrong time algbw busbw #wrong"
OLD = "size count type redop time algbw busbw error time algbw busbw error"
END = "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 1.0\n#\n"


def devices(*hosts: str) -> str:
    return "".join(
        f"#  Rank {rank:2d} Group  0 Pid {rank + 7} on {host} device {rank:2d} [0x1b] NVIDIA H100\n"
        for rank, host in enumerate(hosts)
    )


def row(nbytes: int, time_us: float, factor: float, *, old: bool = False, redop: str = "sum", root: int = -1) -> str:  # fmt: skip
    algbw = nbytes / time_us * 1e-3
    numbers = f"{time_us:.2f} {algbw:.2f} {algbw * factor:.2f} {'1e-07' if old else '0'}"
    middle = redop if old else f"{redop} {root}"
    return f"  {nbytes}  {nbytes // 4} float {middle} {numbers} {numbers}\n"


def table(*rows: str, columns: str = NEW, hosts: tuple[str, ...] = ("a",) * 8, program: str = "all_reduce_perf") -> str:  # fmt: skip
    named = f"# Collective test starting: {program}\n" if program else ""
    return f"{named}# nThread 1 nGpus 1 minBytes 8 maxBytes 4096 step: 2(factor)\n# Using devices\n{devices(*hosts)}#\n#   out-of-place in-place\n#  {columns}\n#  (B) (elements)\n{''.join(rows)}{END}"  # fmt: skip


def read(tmp_path: Path, text: str, operation: Operation | None = None) -> list[Measured]:
    path = tmp_path / "log.txt"
    path.write_text(text)
    return read_nccl_tests(path, operation)


ROWS = (row(1024, 30.0, 1.75), row(4096, 32.5, 1.75))


def test_a_new_table_is_read_as_it_was_printed(tmp_path: Path) -> None:
    first, second = read(tmp_path, table(*ROWS))
    assert first == Measured(
        Operation.ALLREDUCE, 8, 1, 1024, 30e-6, f"{tmp_path}/log.txt, line 16", 0.03e9, 0.06e9, 30e-6
    )  # fmt: skip
    assert (second.nbytes, second.time_s) == (4096, 32.5e-6)


def test_an_old_table_without_roots_is_read(tmp_path: Path) -> None:
    rows = row(1024, 30.0, 1.75, old=True), row(4096, 32.5, 1.75, old=True)
    assert [each.time_s for each in read(tmp_path, table(*rows, columns=OLD))] == [30e-6, 32.5e-6]


def test_columns_of_iterations_and_time_stamps_do_not_move_the_others(tmp_path: Path) -> None:
    each = "time algbw busbw #wrong i_min i_max i_p99 i_cv%"
    numbers = "30.00 0.03 0.06 0 29.0 31.0 31.0 2.0"
    text = table(
        f"4096 1024 float sum -1 {numbers.replace('30.00 0.03 0.06', '30.00 0.14 0.24')} "
        f"{numbers.replace('30.00 0.03 0.06', '31.00 0.13 0.23')} 2026-11-21 10:00:00\n",
        columns=f"size count type redop root {each} {each} timestamp",
    )
    (found,) = read(tmp_path, text)
    assert (found.time_s, found.in_place_time_s) == (30e-6, 31e-6)


def test_what_ranks_print_between_the_lines_is_passed_over(tmp_path: Path) -> None:
    noise = "node-1:12:14 [0] NCCL INFO Channel 00\n3 more processes have sent help message\n\n"
    tagged = "".join(f"[1,0]<stdout>:{line}\n" for line in table(ROWS[0], noise, ROWS[1]).splitlines())  # fmt: skip
    assert read(tmp_path, noise + table(*ROWS)) == read(tmp_path, noise + table(*ROWS))
    assert [each.nbytes for each in read(tmp_path, tagged)] == [1024, 4096]


def test_several_tables_have_each_their_own_operation_and_ranks(tmp_path: Path) -> None:
    gather = (row(1024, 20.0, 0.5, redop="none"), row(4096, 21.0, 0.5, redop="none"))
    both = table(*ROWS) + "# Collective test concluded: all_reduce_perf\n" + table(
        *gather, hosts=("a", "b"), program="all_gather_perf"
    )  # fmt: skip
    found = read(tmp_path, both)
    assert [(each.operation, each.ranks, each.nodes) for each in found] == [
        (Operation.ALLREDUCE, 8, 1)] * 2 + [(Operation.ALLGATHER, 2, 2)] * 2  # fmt: skip


def test_an_operation_is_told_from_its_bandwidths_only_where_one_can_be(tmp_path: Path) -> None:
    big = row(1 << 30, 4000.0, 1.75)
    (found,) = read(tmp_path, table(big, program=""))
    assert found.operation is Operation.ALLREDUCE
    two = table(row(1 << 30, 4000.0, 1.0), program="", hosts=("a", "a"))
    with pytest.raises(MachineError, match="all_reduce or sendrecv; give --operation"):
        read(tmp_path, two)
    assert read(tmp_path, two, Operation.SENDRECV)[0].operation is Operation.SENDRECV


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: text.replace(ROWS[1], ROWS[1][:40] + "\n"), r"line 17: a row must have 13 columns"),
        (lambda text: text.replace(ROWS[1], "  40\n"), r"line 17: a row must have 13 columns"),
        (lambda text: text[: text.index(ROWS[1])], r"line 16: a table must go on to 4096 bytes"),
        (lambda text: text.replace("32.50", "3250.0"), r"line 17: algbw must be 0\.00 GB/s"),
        (lambda text: text.replace("0.13 0.22", "0.13 0.13"), r"line 17: busbw must be 1\.75 times"),
        (lambda text: text.replace("30.00", "0.00"), r"line 16: a time must be positive"),
        (lambda text: text.replace("30.00", "nan"), r"line 16: a time must be positive"),
        (lambda text: text.replace("30.00", "3o.00"), r"line 16: times and bandwidths must be numbers"),
        (lambda text: text.replace("0.06 0\n", "0.06 9\n"), r"line 16: #wrong must be 0, got 0 and 9"),
        (lambda text: text.replace("time algbw", "cputime algbw"), r"line 14: a table must have time"),
        (lambda text: text.replace(" Rank ", " Bank "), r"must come after the list of its devices"),
        (lambda text: text.replace(ROWS[0], "").replace(ROWS[1], ""), r"a table must have rows"),
        (lambda _: "nothing here\n", r"must have a table of nccl-tests, got none"),
        (lambda _: "", r"must have a table of nccl-tests, got none"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_is_refused_by_its_line(damage, message, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    damaged = damage(table(*ROWS))
    assert damaged != table(*ROWS)
    with pytest.raises(MachineError, match=message):
        read(tmp_path, damaged)


def test_a_row_that_is_missing_in_the_middle_is_noticed(tmp_path: Path) -> None:
    sizes = [1 << power for power in range(14, 22)]
    rows = [row(nbytes, 30.0 + nbytes / 1e5, 1.75) for nbytes in sizes]
    assert len(read(tmp_path, table(*rows))) == len(sizes)
    beheaded = rows[5][25:]  # what is left of a line may not look like a row at all
    for less in (rows[:5] + rows[6:], [*rows[:5], beheaded, *rows[6:]]):
        with pytest.raises(MachineError, match=r"a row of 524288 bytes must come before, got 1048576"):  # fmt: skip
            read(tmp_path, table(*less))


def test_a_table_that_reached_its_last_size_needs_no_end(tmp_path: Path) -> None:
    assert len(read(tmp_path, table(*ROWS).replace(END, ""))) == 2


def document(ranks: int, *, program: str = "all_reduce_perf", **changed: object) -> str:
    body = {"time": 32.5, "alg_bw": 4096 / 32.5e3, "bus_bw": 4096 / 32.5e3 * bus_factor(Operation.ALLREDUCE, ranks), "nwrong": 0.0}  # fmt: skip
    result = {"size": 4096, "count": 1024, "type": "float", "redop": "sum", "root": "    -1",
              "out_of_place": body | changed, "in_place": body}  # fmt: skip
    config = {"nthreads": 1, "ngpus": 4, "devices": [{"rank": rank, "hostname": f"n{rank}"} for rank in range(0, ranks, 4)]}  # fmt: skip
    return json.dumps({"version": 2, "args": [f"./build/{program}", "-g", "4"], "config": config, "results": [result]})  # fmt: skip


@pytest.mark.parametrize("ranks", [4, 16])
def test_json_lists_one_device_of_each_process(ranks: int, tmp_path: Path) -> None:
    (found,) = read(tmp_path, document(ranks))
    assert (found.operation, found.ranks, found.nodes) == (Operation.ALLREDUCE, ranks, ranks // 4)
    assert found.time_s == 32.5e-6


@pytest.mark.parametrize(
    "text, message",
    [
        (document(8, nwrong=3.0), "result 1: nwrong must be 0"),
        (document(8, bus_bw=1.0), "result 1: busbw must be 1.75 times"),
        (document(8)[:-9], r"line 1 must be JSON"),
        ("{}", "'config'.* is missing"),
        (document(8).replace('"time"', '"cpu_time"'), "must have times"),
    ],
)
def test_json_that_is_cut_or_wrong_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=message):
        read(tmp_path, text)


def measured(operation: Operation, ranks: int, nodes: int, time_s: float, nbytes: int) -> Measured:
    return Measured(operation, ranks, nodes, nbytes, time_s, "made up")


def test_links_invert_what_was_measured() -> None:
    sizes = [1 << power for power in range(3, 30, 3)]
    found = [measured(Operation.ALLREDUCE, 8, 1, 30e-6 + 1.75 * n / 4e11, n) for n in sizes]
    found += [measured(Operation.ALLGATHER, 8, 1, 7 * (3e-6 + n / 8 / 3e11), n) for n in sizes]
    link = links_of(found, "made up")[Tier.NODE]
    for n in sizes:
        assert library_allreduce_s(n, 8, link.allreduce) == pytest.approx(30e-6 + 1.75 * n / 4e11, rel=1e-3)  # fmt: skip
    alpha_s, beta = link.message.at(1 << 20)
    assert (alpha_s, beta) == pytest.approx((3e-6, 1 / 3e11), rel=1e-3)
    sums, messages = links_of(found[:9], "made up")[Tier.NODE], links_of(found[9:], "made up")[Tier.NODE]  # fmt: skip
    assert sums.message.source == "made up; messages implied by its all-reduce"
    assert messages.allreduce.source == "made up; all-reduce implied by its messages"
    assert (sums.allreduce, messages.message) == (link.allreduce, link.message)
    assert links_of([measured(Operation.ALLREDUCE, 16, 2, 1e-3, 8)], "made up") == {}


def test_the_command_line_prints_what_it_read_and_writes_a_machine(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    gather = (row(1024, 20.0, 0.875, redop="none"), row(4096, 21.0, 0.875, redop="none"))
    log.write_text(table(*ROWS) + table(*gather, program="all_gather_perf"))
    command = ("import", log)
    finished = run_here(app, (*command, "--json", "--out", tmp_path / "m.json", "--name", "mine"))
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [line["time_s"] for line in lines] == [30e-6, 32.5e-6, 20e-6, 21e-6]
    found = read_machine(tmp_path / "m.json")
    assert (found.name, set(found.links), found.compute) == ("mine", {Tier.NODE}, None)
    refused = run_here(app, (*command, "--out", tmp_path))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: out must be a file")


@pytest.fixture(scope="module")
def real_tables() -> Path:
    named = os.environ.get("STEPCAST_MEASUREMENTS_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "measurements"
    if not (folder / "nccl-tests").is_dir():
        pytest.skip("needs tables of others: set STEPCAST_MEASUREMENTS_DIR")
    return folder / "nccl-tests"


REAL = {
    "cscs-alps_2x1xGH200": (8, 2, 2, 134217728, 5871.07, 22.86),
    "index-id-15601983362_1x8xH100": (4, 8, 1, 2147483648, 7983.5, 470.73),
    "oci_2x8xA100-40GB": (31, 16, 2, 8589934592, 67689.0, 237.94),
    "oci_2x8xA100_BM": (4, 16, 2, 8589934592, 84948.7, 189.60),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables_are_read_to_the_last_row(name: str, real_tables: Path, tmp_path: Path) -> None:
    (path,) = real_tables.glob(f"{name}*")
    rows, ranks, nodes, nbytes, time_us, busbw = REAL[name]
    found = read_nccl_tests(path)
    assert len(found) == rows
    assert {(each.operation, each.ranks, each.nodes) for each in found} == {(Operation.ALLREDUCE, ranks, nodes)}  # fmt: skip
    last = found[-1]
    assert (last.nbytes, last.time_s, last.busbw_bytes_per_s) == pytest.approx((nbytes, time_us * 1e-6, busbw * 1e9), rel=1e-12)  # fmt: skip
    # No line of any of them can be cut in the middle without an error.
    lines = path.read_text().splitlines()
    numbers = [i for i, line in enumerate(lines) if line.split()[:1] and line.split()[0].isdigit()]
    for i in numbers:
        cut = [*lines[:i], lines[i][: len(lines[i]) * 2 // 3], *lines[i + 1 :]]
        with pytest.raises(MachineError, match=rf"line {i + 1}:"):
            read(tmp_path, "\n".join(cut))


@pytest.mark.parametrize("units", ["(B) (elements) (ms) (GB/s)", "(B) (elements) (us) (MB/s)"])
def test_units_of_another_kind_are_refused(units: str, tmp_path: Path) -> None:
    text = table(*ROWS).replace("(B) (elements)", units)
    with pytest.raises(
        MachineError, match=r"line \d+: units must be B, us and GB/s, got \((ms|MB/s)\)"
    ):
        read(tmp_path, text)
