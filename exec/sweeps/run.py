"""Run a sweep's missing cells: each is one child process, whose record becomes a line."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from exec.cli import INTERRUPTED_STATUS, USAGE_STATUS
from exec.errors import SweepError
from exec.sweeps.cells import Axis, Cell, arguments, key_of, label
from exec.sweeps.journal import Record, Writer
from exec.sweeps.options import without_folders

_TERMINATED_STATUS = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to run: ``fixed`` goes to every training as it is; threads have no ``mpiexec``."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    fixed: tuple[str, ...]
    mpiexec: str | None

    @property
    def paths(self) -> tuple[str, ...]:
        """Every text of the user's that may hold a path."""
        return (*self.fixed, *(text for axis in self.axes for text in axis.texts))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is: ``left_s`` is expected, or None before the first cell has ended."""

    number: int
    total: int
    cell: Cell
    left_s: float | None


def run_cells(sweep: Sweep, out: Writer, report: Callable[[Progress], None]) -> None:
    """Run the cells of ``sweep`` that ``out`` lacks, and append each as it ends.

    Raises:
        SweepError: a training failed; what was finished before is in the file.
    """
    missing = [cell for cell in sweep.cells if key_of(cell) not in out.done]
    num_done = len(sweep.cells) - len(missing)
    start_s = perf_counter()
    with _noting_signals() as ending:
        for i, cell in enumerate(missing):
            left_s = (perf_counter() - start_s) / i * (len(missing) - i) if i else None
            report(Progress(num_done + i + 1, len(sweep.cells), cell, left_s))
            try:
                outcome = _run_cell(sweep, cell, ending)
            except SweepError as error:
                raise SweepError(f"{error}\nfinished cells are in {out.path}; the same command goes on from there") from error  # fmt: skip
            out.append({"kind": "cell", "cell": cell} | outcome)


def command_of(sweep: Sweep, cell: Cell) -> list[str]:
    """Return the command line that trains ``cell``."""
    ranks = str(cell["ranks"])
    options = [*arguments(cell, sweep.axes), *sweep.fixed, "--json"]
    train = [sys.executable, "-m", "exec.train"]
    if sweep.mpiexec is None:
        return [*train, "--transport=threads", f"--ranks={ranks}", *options]
    return [sweep.mpiexec, "-n", ranks, *train, "--transport=mpi", *options]


def _run_cell(sweep: Sweep, cell: Cell, ending: "_Ending") -> dict[str, Any]:
    """Return the cell's record or its refusal, as it stands in the file."""
    ended = _run_child(command_of(sweep, cell), ending)
    out, err = (without_folders(text, sweep.paths) for text in (ended.stdout, ended.stderr))
    if ended.returncode in (INTERRUPTED_STATUS, -signal.SIGINT):
        raise KeyboardInterrupt
    _, is_error, message = ("\n" + err).partition("\nerror: ")
    if ended.returncode == USAGE_STATUS and is_error:
        return {"refused": message.strip()}
    if ended.returncode != 0:
        problem = f"status {ended.returncode}"
    else:
        try:
            record = json.loads(out)
            Record.model_validate(record)
        except ValueError:  # a rank that leaves early can end a job with status 0
            problem = "status 0 but no record"
        else:
            return {"record": record}
    last = "\n".join(err.strip().splitlines()[-15:])
    raise SweepError(f"the training of {label(cell)} ended with {problem}:\n{last}")


@dataclass(slots=True)
class _Ending:
    """The signals that told this process to end, and the child that must end before it.

    Signals are noted, and raise only where no child can be orphaned: an exception at any moment
    could fall between a child's start and its name.
    """

    told: list[int] = field(default_factory=list)
    child: "subprocess.Popen[str] | None" = None

    def tell(self, number: int, _: object) -> None:
        """Note the signal ``number``, and end the child: a launcher ends its ranks."""
        self.told.append(number)
        if self.child is not None:
            self.child.send_signal(signal.SIGTERM if len(self.told) == 1 else signal.SIGKILL)

    def check(self) -> None:
        """Raise KeyboardInterrupt after Ctrl-C, SystemExit after SIGTERM."""
        if signal.SIGINT in self.told:
            raise KeyboardInterrupt
        if self.told:
            sys.exit(_TERMINATED_STATUS)


@contextmanager
def _noting_signals() -> Iterator[_Ending]:
    """Note Ctrl-C and SIGTERM, unless the shell that started this has them ignored."""
    ending = _Ending()
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]  # fmt: skip
    before = {number: signal.signal(number, ending.tell) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ending.check()


def _run_child(command: Sequence[str], ending: _Ending) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end, or until told to end."""
    ending.check()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", errors="replace",
    ) as child:  # fmt: skip
        ending.child = child
        if ending.told:
            child.terminate()
        out, err = child.communicate()
    ending.child = None
    ending.check()
    return subprocess.CompletedProcess(command, child.returncode, out, err)
