"""Laws of reading Intel MPI Benchmarks: every number as it was printed, or an error that names the line."""

import pytest

from calibration.importers.imb import read_imb
from calibration.importers.measured import Layout, Measured, Operation
from exec.errors import MachineError

PINGPONG = """\
#---------------------------------------------------
# Benchmarking PingPong
# #processes = 2
# ( 2 additional processes waiting in MPI_Barrier)
#---------------------------------------------------
       #bytes #repetitions      t[usec]   Mbytes/sec
            0         1000         1.50         0.00
      1000000          640       100.00     10000.00
      4000000          160       400.00     10000.00

"""
ALLREDUCE = """\
# Benchmarking Allreduce
# #processes = 4
       #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]
      1000000         1000         3.00         4.00         3.50
      4000000         1000         3.10         4.10         3.60

"""
BARRIER = """\
# Benchmarking Barrier
# #processes = 4
 #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]
         1000         3.06         3.08         3.07

"""
END = "# All processes entering MPI_Finalize\n"
WHOLE = PINGPONG + ALLREDUCE + BARRIER + END


def read(text: str) -> tuple[Measured, ...]:
    return read_imb(text, "log", Layout(nodes=2)).measured


def test_several_tables_are_read_as_they_were_printed() -> None:
    found = read(WHOLE)
    assert [(each.operation, each.ranks, each.nbytes, each.time_s) for each in found] == [
        (Operation.PINGPONG, 2, 0, 1.5e-6), (Operation.PINGPONG, 2, 1000000, 1e-4), (Operation.PINGPONG, 2, 4000000, 4e-4),
        (Operation.ALLREDUCE, 4, 1000000, 3.50 / 1e6), (Operation.ALLREDUCE, 4, 4000000, 3.60 / 1e6), (Operation.BARRIER, 4, 0, 3.07 / 1e6),
    ]  # fmt: skip
    assert (found[3].least_s, found[3].most_s, found[3].place) == (3e-6, 4e-6, "log, line 14")


def test_a_bandwidth_may_be_in_megabytes_or_mebibytes_but_not_in_both() -> None:
    mebi = WHOLE.replace("     10000.00\n", "      9536.74\n")
    assert [each.time_s for each in read(mebi)] == [each.time_s for each in read(WHOLE)]
    mixed = WHOLE.replace("10000.00\n      4000000", "9536.74\n      4000000")
    with pytest.raises(
        MachineError, match=r"line 9: Mbytes/sec must be 10000.00 or, in MiB, 9536.74"
    ):
        read(mixed)


def test_both_directions_count_in_the_bandwidths_of_sendrecv_and_exchange() -> None:
    text = """# Benchmarking {}
# #processes = 4
       #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]   Mbytes/sec
      1000000          640       100.00       101.00       100.50     {}
"""
    assert read(text.format("Sendrecv", "19801.98") + END)[0].operation is Operation.SENDRECV
    assert read(text.format("Exchange", "39603.96") + END)[0].operation is Operation.EXCHANGE
    with pytest.raises(MachineError, match="line 4: Mbytes/sec must be"):
        read(text.format("Exchange", "19801.98") + END)


def test_shares_count_as_the_whole_buffer_and_noise_as_nothing() -> None:
    gather = WHOLE.replace("Allreduce", "Allgather")
    assert [each.nbytes for each in read(gather) if each.operation is Operation.ALLGATHER] == [4000000, 16000000]  # fmt: skip
    noisy = WHOLE.replace("\n", "\nhost-3:77 warning: something\n1 more process sent help\n")
    assert [each.time_s for each in read(noisy)] == [each.time_s for each in read(WHOLE)]
    assert read(WHOLE.replace("\n", "\r\n")) == read(WHOLE)


def test_what_nothing_uses_is_passed_over_and_said() -> None:
    reading = read_imb(ALLREDUCE + ALLREDUCE.replace("Allreduce", "Gatherv") + END, "log", Layout(nodes=2))  # fmt: skip
    assert reading.summary() == "read 2 of all_reduce; passed over 2 of IMB Gatherv"


@pytest.mark.parametrize(
    "old, new, message",
    [
        (END, "", "IMB must end with 'All processes entering MPI_Finalize'"),
        ("      1000000          640       100.00     10000.00\n", "", "PingPong of 2 ranks must have a row of 1000000 bytes as others do"),
        ("       400.00     10000.00", "       400.0     10000.00", r"line 9: t\[usec\] must have 2 decimals"),
        ("          160       400.00     10000.00", "", "line 9: a row must have 4 columns, got 1"),
        ("      4000000", "       400000", "line 9: #bytes must grow from row to row"),
        ("          160       400.00", "  out-of-mem.;  needed X", "line 9: a row must have 4 columns, got 5|line 9: #repetitions must be"),
        ("4.10         3.60", "4.10         4.60", "line 15: t_avg must be between 3.10 and 4.10"),
        ("# #processes = 4\n       #bytes", "       #bytes", "a table must say its #processes"),
        ("# #processes = 4\n       #bytes", "# ( 2 groups of 2 processes each running simultaneous )\n       #bytes", "run IMB without -multi"),
        ("         1000         3.06         3.08         3.07\n", "", "a table of Barrier must have rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_is_refused_by_its_line(old: str, new: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(MachineError, match=message):
        read(WHOLE.replace(old, new, 1))


def test_it_must_be_known_over_how_many_nodes() -> None:
    with pytest.raises(MachineError, match=r"line 7: IMB does not say on how many nodes .* --tier"):
        read_imb(WHOLE, "log")
    with pytest.raises(MachineError, match="log must have a table of IMB"):
        read(END)
