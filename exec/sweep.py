"""Train many times: ``python -m exec.sweep``, every combination of ranks, batch, rate and more."""

import os
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from exec.cli import console, make_app, run_app
from exec.errors import SweepError, UsageError
from exec.launch import find_mpiexec, launched_ranks
from exec.runtime.job import TransportName
from exec.runtime.report import cpu_model, num_cores, software
from exec.sweeps.cells import Axis, cells, parse_list, parse_vary
from exec.sweeps.journal import Header, Journal, open_journal, read_journal
from exec.sweeps.options import check_fixed, make_axis, without_folders
from exec.sweeps.plot import check_plot, draw_sweep, share_of
from exec.sweeps.progress import reporting
from exec.sweeps.results import results_of
from exec.sweeps.run import Sweep, run_cells
from exec.sweeps.table import TABLE_WIDTH, print_results

app = make_app("python -m exec.sweep", "Train every combination of ranks, batch, rate and more.")

Flag = Annotated[bool, Parameter(negative=())]
Vary = Annotated[tuple[str, ...], Parameter(negative=())]


@app.default
def sweep(
    *options: str,
    out: Path,
    ranks: str = "1",
    batch: str | None = None,
    learning_rate: Annotated[str | None, Parameter(name=("--learning-rate", "--lr"))] = None,
    strategy: str | None = None,
    vary: Vary = (),
    repeats: int = 1,
    seed: int = 0,
    transport: TransportName = TransportName.AUTO,
    plot: Path | None = None,
    plot_only: Flag = False,
    json: Flag = False,
) -> None:
    """Train every combination of the values given, and keep the record of each.

    The same command again runs what is missing; more values or repeats may be asked for.

    Parameters
    ----------
    options
        What every training gets as it is, after "--": for example -- --data letters --epochs 5.
    out
        The file for the results: JSON lines, the provenance first, then one a training.
    ranks
        Numbers of ranks, joined by commas.
    batch
        Global batches, joined by commas.
    learning_rate
        Learning rates, joined by commas.
    strategy
        Strategies, joined by commas.
    vary
        NAME=V1,V2: values of any other option of exec.train; may be given several times.
    repeats
        How often to train each combination, each time with the next seed.
    seed
        The first seed.
    transport
        mpi (mpiexec starts the ranks) or threads; auto is mpi where it is installed.
    plot
        Draw the figures into this folder, or all into one file.
    plot_only
        Train nothing: print, and draw, what is in the file.
    json
        Print the file's lines instead of a table.
    """
    if launched_ranks(os.environ) > 1:
        raise UsageError("exec.sweep must be started alone, without a launcher; it starts mpiexec itself")  # fmt: skip
    if plot is not None:
        check_plot(plot)
    if not plot_only:
        if repeats < 1 or seed < 0:
            raise UsageError(f"repeats must be at least 1 and seed at least 0, got {repeats} and {seed}")  # fmt: skip
        axes = _axes(ranks, batch, learning_rate, strategy, vary)
        fixed = check_fixed(options, axes)
        mpiexec = _launcher(transport)
        planned = Sweep(axes, tuple(cells(axes, range(seed, seed + repeats))), options, mpiexec)
        header = Header.model_validate(
            {
                "transport": "threads" if mpiexec is None else "mpi",
                "axes": tuple(axis.name for axis in axes),
                "fixed": fixed,
                "cpu": cpu_model(),
                "cores": num_cores(),
                **software(),
                "stepcast": version("stepcast"),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": without_folders(shlex.join(["python", "-m", "exec.sweep", *sys.argv[1:]]), sys.argv[1:]),
            }
        )  # fmt: skip
        with open_journal(out, header) as writer, reporting() as report:
            run_cells(planned, writer, report)
    journal = read_journal(out)
    _finish(journal, out, plot, is_json=json)


def _finish(journal: Journal, out: Path, plot: Path | None, *, is_json: bool) -> None:
    """Print and draw what ``journal`` holds."""
    if is_json:
        print("\n".join(journal.texts))
    elif journal.lines:
        print_results(console(TABLE_WIDTH), results_of(journal.lines), share_of(journal))
    if not any(line.record for line in journal.lines):
        first = next((line.refused for line in journal.lines), "there is none")
        raise SweepError(f"every training in {out} was refused, the first with: {first}\ndelete the file to try again")  # fmt: skip
    if plot is not None:
        written = draw_sweep(plot, journal)
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"drew {', '.join(map(str, written))}"
        )


def _axes(
    ranks: str, batch: str | None, learning_rate: str | None, strategy: str | None, vary: Vary
) -> tuple[Axis, ...]:
    named = {"ranks": ranks, "batch": batch, "learning-rate": learning_rate, "strategy": strategy}
    lists = [(name, parse_list(name, text)) for name, text in named.items() if text is not None]
    axes: list[Axis] = []
    for name, values in [*lists, *map(parse_vary, vary)]:
        axis = make_axis(name, values)
        if any(axis.name == each.name for each in axes):
            hint = "; give --ranks" if axis.name == "ranks" else ""
            raise UsageError(f"{name} must not be varied twice{hint}")
        axes.append(axis)
    if any(int(value) < 1 for value in axes[0].values):
        raise UsageError(f"ranks must be at least 1, got {ranks}")
    return tuple(axes)


def _launcher(transport: TransportName) -> str | None:
    """Return the mpiexec that starts the ranks, or None for threads."""
    if transport is TransportName.THREADS:
        return None
    found = find_mpiexec()
    if found is not None and find_spec("mpi4py") is not None:
        return found
    if transport is TransportName.MPI:
        raise UsageError("mpiexec and mpi4py must be installed for transport mpi (the mpi extra has both), or use --transport threads")  # fmt: skip
    return None


if __name__ == "__main__":
    run_app(app)
