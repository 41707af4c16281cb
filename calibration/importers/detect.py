"""Which benchmark a log is of, told by its titles."""

from pathlib import Path

from calibration.importers.cells import text_of
from calibration.importers.imb import is_imb, read_imb
from calibration.importers.measured import Layout, Operation, Reading
from calibration.importers.nccl_tests import read_nccl_tests
from calibration.importers.osu import is_osu, read_osu
from exec.errors import MachineError


def read_measurements(
    path: Path, layout: Layout = Layout(), operation: Operation | None = None
) -> Reading:
    """Return what the benchmark of ``path`` measured.

    Raises:
        MachineError: it cannot be read, or not all of it; the message names the line.
    """
    text = text_of(path)
    kinds = [kind for kind, is_one in (("OSU", is_osu(text)), ("IMB", is_imb(text))) if is_one]
    if len(kinds) == 2:
        raise MachineError(f"{path} must have tables of one benchmark, got OSU and IMB; cut it in two")  # fmt: skip
    if kinds == ["OSU"]:
        return read_osu(text, str(path), layout)
    if kinds == ["IMB"]:
        return read_imb(text, str(path), layout)
    return Reading(tuple(read_nccl_tests(path, operation)))
