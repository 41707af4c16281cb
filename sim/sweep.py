"""Forecast many plans: ``python -m sim.sweep --nodes 1,2,4 --net cnn --out points.jsonl``."""

import exec.light  # noqa: F401  # before what allocates

# isort: split
import hashlib
import json as json_format
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from exec.cli import console, make_app, run_app
from exec.errors import SweepError, UsageError
from exec.launch import launched_ranks
from exec.sweeps.cells import Cell, Scalar, key_of, parse_list, parse_vary
from exec.workload import positive
from sim.forecast import Engine
from sim.grid import Point
from sim.sweep_file import Line, PointFile, open_points, write_csv
from sim.sweep_points import Points, combinations, parse_values
from sim.sweep_work import Asked, answer_alone, answer_together

app = make_app(
    "python -m sim.sweep", "Forecast every combination of nodes, batch, network and more."
)
Flag = Annotated[bool, Parameter(negative=())]
Several = Annotated[tuple[str, ...], Parameter(negative=(), show_default=", ".join)]

_MAX_SIMULATED_RANKS = 512


@app.default
def sweep(
    *,
    out: Path,
    nodes: str = "1,2,4,8,16,32,64",
    batch: str = "1024",
    net: Several = ("128-100-26",),
    machine: Several = ("local+ethernet-cluster",),
    vary: Several = (),
    engine: Engine = Engine.SOLVE,
    intervals: Flag = False,
    workers: int | None = None,
    csv: Path | None = None,
    plot: Path | None = None,
    json: Flag = False,
) -> None:
    """Forecast every combination of the values given, and keep each as one JSON line.

    The same command again answers what is missing; more values may be asked for.

    Parameters
    ----------
    out
        The file for the points: JSON lines, what they stand on first.
    nodes
        Numbers of nodes, joined by commas.
    batch
        Global batches, joined by commas.
    net
        A network, spelled as for sim.predict; may be given several times.
    machine
        A Machine, spelled as for sim.predict; may be given several times.
    vary
        NAME=V1,V2: strategy, algorithm, ranks-per-node, pp, tp, microbatches, schedule, overlap (yes
        or no), momentum, sync-batchnorm, bucket-kib, servers or average-every; or what a Machine says,
        as a factor: network.bandwidth, network.latency, node.bandwidth, node.latency, compute.speed.
        May be given several times.
    engine
        solve, in closed form and thousands at once; or simulate, message by message, one at a time on all
        cores: by arrays where no messages meet, else by events, or only by the one of them.
    intervals
        Give each step time its 90 % interval too.
    workers
        How many processes answer what is answered one at a time; all cores unless given.
    csv
        Write a table of all points in the file here, too.
    plot
        Draw samples trained in a second against nodes into this SVG, PNG or PDF file.
    json
        Print what was done, and the fastest point, as one JSON record.
    """
    start_s = perf_counter()
    if launched_ranks(os.environ) > 1 and "mpi4py.futures" not in sys.modules:
        raise UsageError("a launcher must start python -m mpi4py.futures -m sim.sweep, whose ranks share the points, got python -m sim.sweep")  # fmt: skip
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    positive("workers", workers)
    for option, path in (("out", out), ("csv", csv), ("plot", plot)):
        if path is not None:
            _check_writable(option, path)
    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise UsageError(f"plot must end in .svg, .png or .pdf, got {plot}")
    axes = _axes(nodes, batch, net, machine, vary)
    if plot is not None:
        from sim.sweep_plot import check_curves, draw_points  # noqa: PLC0415  # only when asked for

        check_curves(axes)
    points = Points()
    header = {
        "kind": "provenance", "of": "sim.sweep", "engine": engine.value, "intervals": intervals, "axes": sorted(axes),
        "machines": {each: hashlib.sha256(points.machine(each).model_dump_json().encode()).hexdigest() for each in machine},
        "nets": {each: points.network(each).num_parameters for each in net},
        "stepcast": version("stepcast"),
    }  # fmt: skip
    with open_points(out, header) as file:
        done = file.keys
        missing = [cell for cell in combinations(axes) if not done or key_of(cell) not in done]
        lines, num_together = _answer(
            file, points, missing, Asked(engine, has_interval=intervals), workers, is_quiet=json
        )
    lines = [*file.lines, *lines]
    if csv is not None:
        write_csv(csv, lines)
    if plot is not None:
        draw_points(plot, lines)
    _tell(lines, len(missing), num_together, perf_counter() - start_s, out, as_json=json)


def _answer(
    file: PointFile,
    points: Points,
    cells: Sequence[Cell],
    what: Asked,
    workers: int,
    *,
    is_quiet: bool,
) -> tuple[list[Line], int]:
    """Answer ``cells`` into ``file``; return their lines, and how many were solved together."""
    written: list[Line] = []

    def keep(lines: list[Line]) -> None:
        file.append(lines)
        written.extend(lines)

    asked: list[tuple[Cell, Point]] = []
    refused: list[Line] = []
    for cell in cells:
        found = _point(points, cell, what.engine)
        if isinstance(found, str):
            refused.append({"kind": "point", "cell": cell, "refused": found})
        else:
            asked.append((cell, found))
    together = answer_together([point for _, point in asked], what)
    keep(refused + [{"kind": "point", "cell": asked[place][0]} | outcome for place, outcome in together.items()])  # fmt: skip
    alone = [(place, point) for place, (_, point) in enumerate(asked) if place not in together]
    if alone and not is_quiet:
        print(
            f"{len(together)} points solved together; {len(alone)} more, one at a time", flush=True
        )
    with _progress(len(alone)) as report:
        for outcomes in answer_alone(alone, what, workers, report):
            keep([{"kind": "point", "cell": asked[place][0]} | outcome for place, outcome in outcomes])  # fmt: skip
    return written, len(together)


def _point(points: Points, cell: Cell, engine: Engine) -> Point | str:
    """Return the point of ``cell``, or why there is none."""
    try:
        point = points.point(cell)
    except UsageError as error:
        return str(error)
    if engine is Engine.SIMULATE and point.mesh.world_size > _MAX_SIMULATED_RANKS:
        return f"engine simulate takes at most {_MAX_SIMULATED_RANKS} ranks, got {point.mesh.world_size}"  # fmt: skip
    return point


def _axes(nodes: str, batch: str, net: Several, machine: Several, vary: Several) -> dict[str, tuple[Scalar, ...]]:  # fmt: skip
    lists = [("net", list(net)), ("machine", list(machine)), *map(parse_vary, vary),
             ("batch", parse_list("batch", batch)), ("nodes", parse_list("nodes", nodes))]  # fmt: skip
    axes: dict[str, tuple[Scalar, ...]] = {}
    for name, texts in lists:
        spelled, values = parse_values(name, texts)
        if spelled in axes:
            raise UsageError(f"{name} must not be varied twice")
        axes[spelled] = values
    return axes


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of points that were answered: a bar on a terminal."""
    err = Console(stderr=True)
    if not (total and err.is_terminal):
        yield lambda _: None
        return
    columns = (TextColumn("points"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda number: bar.advance(task, number)


def _check_writable(option: str, path: Path) -> None:
    """Raise :class:`UsageError` unless ``path`` is a file, or can be made."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{option} must be a file in a folder that exists, got {path}")
    is_new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be written: {error.strerror}") from error
    if is_new:
        path.unlink()


def _tell(
    lines: Sequence[Line], num_new: int, num_together: int, took_s: float, out: Path, *, as_json: bool
) -> None:  # fmt: skip
    """Print how many points there are, and the fastest."""
    answered = [line for line in lines if "refused" not in line]
    num_refused = len(lines) - len(answered)
    if not answered:
        first = next((line["refused"] for line in lines), "there is none")
        raise SweepError(f"every point in {out} was refused, the first with: {first}")
    fitting = [line for line in answered if line["fits_memory"]] or answered
    best = max(fitting, key=lambda line: float(line["samples_per_s"]))
    if as_json:
        told = {"out": str(out), "points": len(lines), "refused": num_refused, "new": num_new,
                "solved_together": num_together, "took_s": took_s, "fastest": best}  # fmt: skip
        print(json_format.dumps(told, allow_nan=False))
        return
    say = console().print
    say(f"{num_new} points in {took_s:.2f} s: {num_together} solved together, {num_new - num_together} one at a time or refused")  # fmt: skip
    say(f"{len(lines)} points in {out}, {num_refused} of them refused")
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in best["cell"].items())
    say(f"most samples a second, {best['samples_per_s']:,.0f}: {words}")


if __name__ == "__main__":
    run_app(app)
