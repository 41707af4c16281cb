"""Sweeps of forecasts and start-up: ``python benchmarks/sweep.py``.

What 10,000 points take in closed form: CPU seconds of making all answers at once, in a process of
its own each time, so that nothing is known before; beside it the same for points one at a time, of
which every fiftieth is forecast. Then the whole command with its file, and the whole process of
``sim.predict``, wall and CPU seconds. All is shown as the median (least..most).
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import Spread, spread

from exec.cli import console, make_app, run_app
from sim.forecast import forecast
from sim.grid import answers
from sim.sweep_points import Points, combinations

MACHINE = "ethernet-cluster"
BANDWIDTHS = [1.0 + i / 10 for i in range(24)]
BATCHES = (4096, 6000, 8192, 10_000, 16_384, 20_000, 32_768, 65_536)
NETS = (("128-50-26", "cnn"), ("resnet18", "784-512-512-26"))
PREDICT = (("128-100-26", 64, 1024), ("cnn", 64, 1024), ("resnet18", 64, 256), ("128-100-26", 65_536, 1024))  # fmt: skip
_ONE_IN = 50

app = make_app("python benchmarks/sweep.py", "Time sweeps of forecasts, and the start-up of one.")


@app.default
def main(*, rounds: int = 5, out: Path | None = None) -> None:
    """Time sweeps of forecasts, and the start-up of one.

    Parameters
    ----------
    rounds
        How often each is measured.
    out
        Write the records here, too, as JSON lines.
    """
    check_writable(out)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "CPU s", "wall s", "points/s of CPU"):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    records: list[dict[str, object]] = [provenance()]

    def add(what: str, cpu_s: Spread, wall_s: Spread, points: int | None) -> None:
        rate = "" if points is None else f"{points / cpu_s.median:,.0f}"
        table.add_row(what, str(cpu_s), str(wall_s), rate)
        records.append({"kind": "sweep", "what": what, "points": points, "cpu_s": asdict(cpu_s), "wall_s": asdict(wall_s)})  # fmt: skip

    for nets in NETS:
        for name, act in (("at once", _at_once), ("one at a time", _one_at_a_time)):
            found = [_fresh(act, nets) for _ in range(rounds)]
            cpu_s, wall_s, counts = zip(*found, strict=True)
            add(f"{' and '.join(nets)}, {name}", spread(cpu_s), spread(wall_s), counts[0])
    with TemporaryDirectory() as folder:
        found = [_command([*_sweep(), "--out", str(Path(folder) / f"{i}.jsonl")]) for i in range(rounds)]  # fmt: skip
        add("python -m sim.sweep, file and start included", *map(spread, zip(*found, strict=True)), 9984)  # fmt: skip
    for net, nodes, batch in PREDICT:
        command = ["sim.predict", "--machine", MACHINE, "--net", net, "--nodes", str(nodes), "--batch", str(batch)]  # fmt: skip
        found = [_command(command) for _ in range(rounds)]
        add(f"sim.predict --net {net} --nodes {nodes} --batch {batch}", *map(spread, zip(*found, strict=True)), None)  # fmt: skip
    console(120).print(table)
    if out is not None:
        write_records(out, records)


def _cells(nets: tuple[str, ...]) -> list[dict[str, object]]:
    axes = {
        "net": nets, "machine": (MACHINE,), "batch": BATCHES, "nodes": tuple(1 << i for i in range(13)),
        "algorithm": ("library", "ring"), "network.bandwidth": tuple(BANDWIDTHS),
    }  # fmt: skip
    return list(combinations(axes))


def _at_once(nets: tuple[str, ...]) -> tuple[float, float, int]:
    """Return the CPU and the wall seconds of all answers at once, and how many they are."""
    points = Points()
    cells = [points.point(cell) for cell in _cells(nets)]
    start_s, wall_s = process_time(), perf_counter()
    found = answers(cells)
    return process_time() - start_s, perf_counter() - wall_s, len(found)


def _one_at_a_time(nets: tuple[str, ...]) -> tuple[float, float, int]:
    """Return what :func:`_at_once` does, of every so manieth point alone."""
    points = Points()
    cells = [points.point(cell) for cell in _cells(nets)[::_ONE_IN]]
    start_s, wall_s = process_time(), perf_counter()
    for each in cells:
        forecast(each.machine, each.workload, each.mesh, each.options, ranks_per_node=1)
    return process_time() - start_s, perf_counter() - wall_s, len(cells)


def _fresh(
    act: Callable[[tuple[str, ...]], tuple[float, float, int]], nets: tuple[str, ...]
) -> tuple[float, float, int]:
    """Return what ``act`` returns in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(act, (nets,))


def _sweep() -> list[str]:
    return [
        "sim.sweep", "--machine", MACHINE, *(f"--net={net}" for net in NETS[0]),
        "--batch", ",".join(map(str, BATCHES)), "--nodes", ",".join(str(1 << i) for i in range(13)),
        "--vary", "algorithm=library,ring", "--vary", f"network.bandwidth={','.join(map(str, BANDWIDTHS))}",
    ]  # fmt: skip


def _command(arguments: list[str]) -> tuple[float, float]:
    """Return the CPU and the wall seconds of ``python -m`` with ``arguments``, start included."""
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL, env=os.environ)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, perf_counter() - start_s


if __name__ == "__main__":
    run_app(app)
