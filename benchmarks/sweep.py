"""Sweeps of forecasts: ``python benchmarks/sweep.py``.

What points take in closed form, solved together: CPU seconds of a process of its own each time, so that
nothing is known before, with and without intervals; 100 to 100,000 of them, and how much memory that
takes. Beside it are the same points solved one at a time, of which every fiftieth is forecast and the
time is told for all of them; and what no sweep of Python can do without: writing the points' lines, and
NumPy's own time for as many operations on arrays as the walk does. Then the whole command with its file. All
is the median (least..most) over rounds, in which all take turns; ratios are taken inside a round.
"""

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np
from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import interleave, ratio, spread

from exec.cli import console, make_app, run_app
from exec.workload import positive
from sim.forecast import forecast
from sim.grid import answers
from sim.sweep_file import open_points
from sim.sweep_points import Points, combinations
from sim.sweep_work import Asked, answer_together

MACHINE = "ethernet-cluster"
NODES = tuple(1 << i for i in range(13))
BATCHES = (4096, 6000, 8192, 10_000, 16_384, 20_000, 32_768, 65_536)
NETS = (("128-50-26", "cnn"), ("resnet18", "784-512-512-26"))
BANDWIDTHS = 24  # 9,984 points
GROWTH = (1, 3, 24, 240)  # bandwidths, of 416 points each; the first is cut to 104
_ONE_IN = 50
_TURNS = 40  # operations on arrays that a step of a replica and its all-reduces take, about

app = make_app("python benchmarks/sweep.py", "Time sweeps of forecasts.")
Told = tuple[float, float, int]
"""CPU seconds, bytes of memory and points."""


@app.default
def main(*, rounds: int = 5, out: Path | None = None) -> None:
    """Time sweeps of forecasts.

    Parameters
    ----------
    rounds
        How often each is measured.
    out
        Write the records here, too, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(out)
    records: list[dict[str, object]] = [provenance("numpy", "pydantic-core")]
    for nets in NETS:
        _compare(nets, rounds, records)
    _grow(rounds, records)
    if out is not None:
        write_records(out, records)


def _compare(nets: tuple[str, ...], rounds: int, records: list[dict[str, object]]) -> None:
    """Measure 9,984 points of ``nets`` every way, and show them beside each other."""
    contenders: Mapping[str, Callable[[int], Told]] = {
        "together": partial(_fresh, _together, nets, BANDWIDTHS, False),
        "together, intervals": partial(_fresh, _together, nets, BANDWIDTHS, True),
        "one at a time*": partial(_fresh, _alone, nets, BANDWIDTHS, False),
        "one at a time, intervals*": partial(_fresh, _alone, nets, BANDWIDTHS, True),
        "sim.sweep, whole process": partial(_command, nets),
        "limit: points and lines": partial(_fresh, _written, nets, BANDWIDTHS, False),
        f"limit: {_TURNS} array operations": partial(_fresh, _touched, nets, BANDWIDTHS, False),
    }
    told = interleave(contenders, range(rounds))
    table = _table("CPU s", "points/s of CPU", "times one at a time", "memory, MB")
    for name, found in told.items():
        base = told["one at a time, intervals*" if "intervals" in name else "one at a time*"]
        whole = [each[0] for each in base]
        cpu_s = [each[0] for each in found]
        nbytes = max(each[1] for each in found)
        faster = ratio(whole, cpu_s)
        points = found[0][2]
        table.add_row(name, str(spread(cpu_s)), f"{points / spread(cpu_s).median:,.0f}", str(faster), f"{nbytes / 1e6:.0f}")  # fmt: skip
        records.append({"kind": "sweep", "nets": nets, "what": name, "points": points, "cpu_s": asdict(spread(cpu_s)),
                        "faster_than_one_at_a_time": asdict(faster), "memory_nbytes": nbytes})  # fmt: skip
    print(f"{points:,} points of {' and '.join(nets)}")
    console(120).print(table)
    print(f"* of every {_ONE_IN}th point, told for all\n")


def _grow(rounds: int, records: list[dict[str, object]]) -> None:
    """Measure how time and memory grow with the number of points."""
    table = _table("CPU s", "us a point", "with intervals, CPU s", "us a point", "memory, MB")
    for count in GROWTH:
        most = 104 if count == GROWTH[0] else None
        plain, with_interval = (
            [_fresh(partial(_together, most=most), NETS[0], count, has_interval, i) for i in range(rounds)]
            for has_interval in (False, True)
        )  # fmt: skip
        points, cells = plain[0][2], []
        record: dict[str, object] = {"kind": "growth", "nets": NETS[0], "points": points}
        for name, found in (("plain", plain), ("with_intervals", with_interval)):
            cpu_s = spread([each[0] for each in found])
            cells += [str(cpu_s), f"{cpu_s.median / points * 1e6:.1f}"]
            record |= {f"{name}_cpu_s": asdict(cpu_s), f"{name}_memory_nbytes": max(each[1] for each in found)}  # fmt: skip
        nbytes = max(each[1] for each in (*plain, *with_interval))
        table.add_row(f"{points:,}", *cells, f"{nbytes / 1e6:.0f}")
        records.append(record)
    print(f"Growth with points of {' and '.join(NETS[0])}")
    console(120).print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="left", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _cells(nets: tuple[str, ...], num_bandwidths: int) -> list[dict[str, object]]:
    axes = {
        "net": nets, "machine": (MACHINE,), "batch": BATCHES, "nodes": NODES, "algorithm": ("library", "ring"),
        "network.bandwidth": tuple(1.0 + i / 10 for i in range(num_bandwidths)),
    }  # fmt: skip
    return list(combinations(axes))


def _together(nets: tuple[str, ...], bandwidths: int, has_interval: bool, most: int | None = None) -> Told:  # fmt: skip
    points = Points()
    asked = [points.point(cell) for cell in _cells(nets, bandwidths)[:most]]
    start_s = process_time()
    found = answers(asked, has_interval=has_interval)
    return process_time() - start_s, _peak_nbytes(), len(found)


def _alone(nets: tuple[str, ...], bandwidths: int, has_interval: bool) -> Told:
    points = Points()
    cells = _cells(nets, bandwidths)
    sample = [points.point(cell) for cell in cells[::_ONE_IN]]
    start_s = process_time()
    for each in sample:
        forecast(each.machine, each.workload, each.mesh, each.options, ranks_per_node=1, has_interval=has_interval)  # fmt: skip
    took_s = (process_time() - start_s) * len(cells) / len(sample)
    return took_s, _peak_nbytes(), len(cells)


def _written(nets: tuple[str, ...], bandwidths: int, has_interval: bool) -> Told:
    """Make the points, and write the lines of answers that are there."""
    cells = _cells(nets, bandwidths)
    known = Points()
    found = answer_together([known.point(cell) for cell in cells], Asked(has_interval=has_interval))
    gc.collect()
    with TemporaryDirectory() as folder:
        start_s = process_time()
        points = Points()
        asked = [points.point(cell) for cell in cells]
        with open_points(Path(folder) / "points.jsonl", _HEADER) as file:
            file.append([{"kind": "point", "cell": cell} | found[i] for i, cell in enumerate(cells)])  # fmt: skip
        return process_time() - start_s, _peak_nbytes(), len(asked)


_HEADER = dict.fromkeys(("of", "engine", "intervals", "axes", "machines", "nets"), "") | {"kind": "provenance"}  # fmt: skip


def _touched(nets: tuple[str, ...], bandwidths: int, has_interval: bool) -> Told:
    """Add arrays of a number for each point, and take the larger of two, so many times."""
    assert not has_interval
    count = len(_cells(nets, bandwidths))
    now, other = np.zeros(count), np.ones(count)
    start_s = process_time()
    for _ in range(_TURNS // 2):
        now = np.maximum(now + other, other)
    return process_time() - start_s, _peak_nbytes(), count


def _peak_nbytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _fresh(
    act: Callable[[tuple[str, ...], int, bool], Told], nets: tuple[str, ...], bandwidths: int, has_interval: bool, _: int
) -> Told:  # fmt: skip
    """Return what ``act`` returns in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(act, (nets, bandwidths, has_interval))


def _command(nets: tuple[str, ...], _: int) -> Told:
    """Return what the whole process of the command takes."""
    with TemporaryDirectory() as folder:
        arguments = [
            "sim.sweep", "--machine", MACHINE, *(f"--net={net}" for net in nets), "--vary", "algorithm=library,ring",
            "--batch", ",".join(map(str, BATCHES)), "--nodes", ",".join(map(str, NODES)),
            "--vary", f"network.bandwidth={','.join(str(1.0 + i / 10) for i in range(BANDWIDTHS))}",
            "--out", str(Path(folder) / "points.jsonl"),
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return used.ru_utime + used.ru_stime, 1024.0 * used.ru_maxrss, len(_cells(nets, BANDWIDTHS))


if __name__ == "__main__":
    run_app(app)
