"""Laws of reading OSU micro-benchmarks: every number as it was printed, or an error that names the line."""

from pathlib import Path

import pytest

from calibration.importers.detect import read_measurements
from calibration.importers.measured import Layout, Measured, Operation
from calibration.importers.osu import read_osu
from exec.errors import MachineError

ALLREDUCE = """\
# OSU MPI Allreduce Latency Test v7.4
# Datatype: MPI_INT.
# Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations
4                       2.81              1.89              3.73        1000
8                       2.90              1.99              3.80        1000
16                      3.10              2.00              4.20        1000
"""
LATENCY = """\
# OSU MPI-CUDA Latency Test v5.6.2
# Size          Latency (us)
0                       1.00
1                       1.02
2                       1.05
"""
BANDWIDTH = """\
# OSU MPI Bandwidth Test v7.5
# Datatype: MPI_CHAR.
# Size      Bandwidth (MB/s)
1                       2.00
2                       4.00
"""
ON_TWO = Layout(8, 2)


def read(text: str, layout: Layout = ON_TWO) -> tuple[Measured, ...]:
    return read_osu(text, "log", layout).measured


def test_full_columns_are_read_as_they_were_printed() -> None:
    first, _, last = read(ALLREDUCE)
    assert first == Measured(Operation.ALLREDUCE, 8, 2, 4, 2.81 / 1e6, "log, line 4", least_s=1.89 / 1e6, most_s=3.73 / 1e6)  # fmt: skip
    assert (last.nbytes, last.time_s) == (16, 3.10 / 1e6)


def test_a_pair_needs_no_ranks_but_nodes() -> None:
    assert [(each.ranks, each.nbytes, each.time_s) for each in read(LATENCY, Layout(nodes=1))] == [
        (2, 0, 1.00e-6), (2, 1, 1.02 / 1e6), (2, 2, 1.05 / 1e6)]  # fmt: skip
    with pytest.raises(
        MachineError, match=r"log, line 3: OSU does not say on how many nodes .* --tier"
    ):
        read(LATENCY, Layout())
    with pytest.raises(
        MachineError, match=r"log, line 4: OSU does not say on how many ranks .* --ranks"
    ):
        read(ALLREDUCE, Layout(nodes=2))


@pytest.mark.parametrize(
    "line, layout",
    [
        ("$ srun -N2 --ntasks-per-node=4 ./osu_allreduce\n", (8, 2)),
        ("srun --nodes 4 -n 16 ./osu_allreduce -f\n", (16, 4)),
        ("$ mpirun -n 144 -N 36 -hostfile h osu_allreduce\n", (144, 4)),
        ("+ mpiexec -np 6 -ppn 3 osu_allreduce\n", (6, 2)),
    ],
)
def test_the_line_that_started_it_says_where(line: str, layout: tuple[int, int]) -> None:
    assert {(each.ranks, each.nodes) for each in read(line + ALLREDUCE, Layout())} == {layout}


def test_megabytes_are_a_million_bytes_and_mebibytes_are_not() -> None:
    assert [each.time_s for each in read(BANDWIDTH)] == pytest.approx([0.5e-6, 0.5e-6], rel=1e-12)
    mebi = read(BANDWIDTH.replace("MB/s", "MiB/s"))
    assert mebi[0].time_s == pytest.approx(1 / (2 * 2**20), rel=1e-12)
    both_ways = read(BANDWIDTH.replace("Bandwidth Test", "Bi-Directional Bandwidth Test"))
    assert both_ways[0].operation is Operation.DUPLEX_STREAM
    assert both_ways[0].time_s == pytest.approx(1e-6, rel=1e-12)


def test_a_share_counts_as_the_whole_buffer() -> None:
    gather = ALLREDUCE.replace("Allreduce", "Allgather")
    assert [each.nbytes for each in read(gather)] == [32, 64, 128]


def test_several_tables_noise_tags_and_carriage_returns_change_nothing() -> None:
    noise = "node1:12 [0] NCCL WARN something\n[0,1,4][btl_openib.c:1153] from node03\n3 more processes sent help\n\n"
    first, *rest = ALLREDUCE.splitlines(keepends=True)
    both = noise + first + noise + "".join(f"{noise}[1,0]<stdout>:{line}" for line in rest) + LATENCY  # fmt: skip
    assert [each.time_s for each in read(both)] == [each.time_s for each in read(ALLREDUCE) + read(LATENCY)]  # fmt: skip
    assert read(both.replace("\n", "\r\n")) == read(both)


def test_what_nothing_uses_is_passed_over_and_said() -> None:
    reading = read_osu(ALLREDUCE + ALLREDUCE.replace("Allreduce", "Allgatherv"), "log", ON_TWO)
    assert reading.summary() == "read 3 of all_reduce; passed over 3 of OSU Allgatherv Latency"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("8                       2.90              1.99              3.80        1000\n", "", "line 5: sizes must double from row to row, got 16 after 4"),
        ("8                       2.90              1.99              3.80        1000", "8                       2.90", "line 5: a row must have 5 columns, got 2"),
        ("2.90", "2.9", "line 5: Avg Latency.us. must have 2 decimals"),
        ("2.90", "N/A", "line 5: Avg Latency.us. must be a number, got N/A"),
        ("2.90", "9.90", "line 5: the mean must be between 1.99 and 3.80 us, got 9.90"),
        ("2.90", "0.00", "line 5: Avg Latency.us. must be greater than 0"),
        ("2.90", "2x90", "line 5: Avg Latency.us. must be a number"),
        ("4.20        1000\n", "4.20        1000", "line 6: the last row must end with its line"),
        ("Avg Latency(us)", "Total(us)", "must have rows, got none|must have a column of latencies"),
        ("# OSU MPI Allreduce Latency Test v7.4\n", "", "must have a table of OSU"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_is_refused_by_its_line(old: str, new: str, message: str) -> None:
    assert old in ALLREDUCE
    with pytest.raises(MachineError, match=message):
        read(ALLREDUCE.replace(old, new))


def test_a_table_without_rows_is_refused_and_so_are_two_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="a table of Allreduce Latency must have rows"):
        read("".join(ALLREDUCE.splitlines(keepends=True)[:3]) + LATENCY)
    with pytest.raises(MachineError, match="nodes must be at most the 8 ranks, got 9"):
        read(ALLREDUCE, Layout(8, 9))
    path = tmp_path / "log"
    path.write_text(ALLREDUCE + "# Benchmarking PingPong\n")
    with pytest.raises(MachineError, match="of one benchmark, got OSU and IMB"):
        read_measurements(path)
