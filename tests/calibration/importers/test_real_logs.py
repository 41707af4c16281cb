"""Real logs of OSU and IMB, where somebody has them: read to the last row, and cut nowhere unseen."""

import os
from pathlib import Path

import pytest

from calibration.importers.detect import read_measurements
from calibration.importers.links import links_of
from calibration.importers.measured import Layout, Operation
from calibration.machine import Tier
from exec.errors import MachineError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def real_logs() -> Path:
    named = os.environ.get("STEPCAST_MEASUREMENTS_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "measurements"
    if not (folder / "osu").is_dir():
        pytest.skip("needs logs of others: set STEPCAST_MEASUREMENTS_DIR")
    return folder


OSU = {
    "alaska-ib-gcc9-openmpi4-ucx/Osu_allreduce.out": (19, Operation.ALLREDUCE, 1 << 20, 3730.69),
    "alaska-ib-gcc9-openmpi4-ucx/Osu_allgather.out": (21, Operation.ALLGATHER, 1 << 26, 96412.44),
    "alaska-roce-gcc9-openmpi4-ucx/Osu_latency.out": (24, Operation.PINGPONG, 1 << 22, 1376.96),
    "osu_alltoall_openmpi_2x4_H-H.txt": (21, Operation.ALLTOALL, 1 << 23, 519.85),
}


@pytest.mark.parametrize("name", OSU)
def test_osu_is_read_to_the_last_row_and_cut_nowhere_unseen(name: str, real_logs: Path, tmp_path: Path) -> None:  # fmt: skip
    path = real_logs / "osu" / name
    rows, operation, nbytes, time_us = OSU[name]
    found = read_measurements(path, Layout(64, 2)).measured
    assert (len(found), {each.operation for each in found}) == (rows, {operation})
    assert (found[-1].nbytes, found[-1].time_s) == (nbytes, time_us / 1e6)
    lines = path.read_text().splitlines()
    numbers = [i for i, line in enumerate(lines) if line.split()[:1] and line.split()[0].isdigit()]
    damaged = tmp_path / "log"
    for i in numbers[2:-1]:
        row = lines[i].rstrip().removesuffix("Pass").rstrip()
        for changed in ([row[:-1]], []):
            damaged.write_text("\n".join([*lines[:i], *changed, *lines[i + 1 :], ""]))
            with pytest.raises(MachineError, match=r"line \d+:"):
                read_measurements(damaged, Layout(64, 2))


@pytest.mark.parametrize("name", ["internode", "internode_Socket", "intranode"])
def test_imb_is_read_to_the_last_row_of_all_tables(name: str, real_logs: Path, tmp_path: Path) -> None:  # fmt: skip
    path = real_logs / "imb" / f"IMB-MPI1_{name}.txt"
    reading = read_measurements(path, Layout(nodes=1))
    assert len(reading.measured) == 24 * 9 + 22 * 3 + 1
    assert reading.passed_over == {f"IMB {each}": 24 for each in ("Allgatherv", "Gatherv", "Scatterv", "Alltoallv")}  # fmt: skip
    link = links_of(reading.measured, name)[Tier.NODE]
    assert link.message.source.endswith("sendrecv")
    lines = path.read_text().splitlines()
    damaged = tmp_path / "log"
    for i in (70, 100, 190, 245, 300):
        for changed in ([lines[i][:-1]], []):
            damaged.write_text("\n".join([*lines[:i], *changed, *lines[i + 1 :], ""]))
            with pytest.raises(MachineError, match=r"line \d+:"):
                read_measurements(damaged, Layout(nodes=1))
