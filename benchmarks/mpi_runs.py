"""Runs of the trainer on MPI ranks of this computer, each rank on a core of its own if it can be."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from exec.errors import UsageError
from exec.launch import find_mpiexec
from exec.runtime.report import num_cores

_AFFINITY = "import os; print(len(os.sched_getaffinity(0)))"


def launcher() -> str:
    """Return mpiexec.

    Raises:
        UsageError: there is none.
    """
    if (found := find_mpiexec()) is None:
        raise UsageError("mpiexec must be installed, got none (the mpi extra has one)")
    return found


def num_physical_cores() -> int:
    """Return how many cores there are that share no arithmetic unit, at most those we may use."""
    return min(psutil.cpu_count(logical=False) or num_cores(), num_cores())


@cache
def binding(unit: str) -> tuple[str, ...]:
    """Return mpiexec's options that bind each rank to one ``unit``, none if it cannot.

    A launcher that does not see the processor's topology binds nothing and says nothing, so one
    rank is asked where it may run.
    """
    options = ("-bind-to", unit)
    command = [launcher(), *options, "-n", "1", sys.executable, "-c", _AFFINITY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    is_bound = done.returncode == 0 and done.stdout.strip().isdigit() and int(done.stdout) < num_cores()  # fmt: skip
    return options if is_bound else ()


def binding_of(ranks: int) -> tuple[str, ...]:
    """Return the options that bind each of ``ranks`` ranks, to a whole core while there are enough."""
    if ranks == 1 or ranks > num_cores():
        return ()
    return binding("core" if ranks <= num_physical_cores() else "hwthread")


def train(ranks: int, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the record of ``python -m exec.train`` on ``ranks`` ranks.

    Raises:
        UsageError: it failed.
    """
    command = [sys.executable, "-m", "exec.train", "--json", *arguments]
    if ranks > 1:
        command = [launcher(), *binding_of(ranks), "-n", str(ranks), *command]
    record: dict[str, Any] = json.loads(_output(command))
    return record


def calibrate(path: Path, *, is_quick: bool) -> None:
    """Measure this computer on 1 and 2 ranks, and write its Machine to ``path``.

    The ranks are not bound: a rank counts the cores that it may use.

    Raises:
        UsageError: it failed.
    """
    options = ["--name", "frozen", "--out", str(path), *["--quick"] * is_quick]
    ranks = str(min(2, num_cores()))
    _output([launcher(), "-n", ranks, sys.executable, "-m", "calibration", *options])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise UsageError(f"{' '.join(command)} failed\n{done.stderr.strip()}")
    return done.stdout
