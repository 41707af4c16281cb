"""Kills of a whole training at random moments: ``python benchmarks/kill_training.py``.

A training with checkpoints runs under ``mpiexec``, once to its end, and then again and again, each
time in a new folder. Each is killed with SIGKILL, launcher and ranks, at a moment drawn evenly over
the time that the first one took, and started again with ``--resume``. Its final weights must be
those of the first one, bit for bit. A training that was through before its moment does not count.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from records import check_writable, provenance, write_records
from safetensors.numpy import load_file

from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.workload import positive

app = make_app("python benchmarks/kill_training.py", "Kill trainings, and resume them.")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: when, what was there then, and what the resumed training came to.

    ``newest_step`` is that of the newest finished checkpoint, None before the first;
    ``was_writing`` says that there was an unfinished one too.
    """

    kind: str
    killed_after_s: float
    newest_step: int | None
    was_writing: bool
    resumed_s: float
    is_equal: bool


@app.default
def kill_training(
    *, kills: int = 20, ranks: int = 2, strategy: str = "data", epochs: int = 40, every: str = "40",
    seed: int = 0, out: Path | None = None,
) -> None:  # fmt: skip
    """Kill trainings at random moments, and resume them.

    Parameters
    ----------
    kills
        How many trainings to kill.
    ranks
        How many ranks train.
    strategy
        How they share the work.
    epochs
        How long they train.
    every
        The steps between two checkpoints.
    seed
        Of the moments.
    out
        Write the records here (JSON lines).
    """
    positive("kills", kills)
    check_writable(out)
    launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # fmt: skip
    if launcher is None:
        raise UsageError("mpiexec must be beside this Python or on PATH, got none")
    first = provenance("safetensors", "mpi4py", "mpich")
    command = [
        launcher, "-n", str(ranks), sys.executable, "-m", "exec.train", "--strategy", strategy,
        "--epochs", str(epochs), "--num-train", "8000", "--num-test", "1000",
        "--momentum", "0.5", "--checkpoint-every", every,
    ]  # fmt: skip
    screen = console()
    generator = random.Random(seed)  # noqa: S311  # moments, not secrets
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        start_s = perf_counter()
        _finish(_start(command, whole))
        took_s = perf_counter() - start_s
        screen.print(f"not killed: {took_s:.1f} s")
        found: list[Kill] = []
        while len(found) < kills:
            directory = Path(folder) / "killed"
            killed = _kill_and_resume(command, directory, whole, generator.uniform(0.0, took_s))
            shutil.rmtree(directory, ignore_errors=True)
            if killed is not None:
                found.append(killed)
                screen.print(
                    f"killed after {killed.killed_after_s:.2f} s, newest checkpoint "
                    f"{killed.newest_step}{', writing another' * killed.was_writing}: "
                    f"{'the same bits' if killed.is_equal else 'OTHER BITS'}"
                )
    num_equal = sum(each.is_equal for each in found)
    resumed = sum(each.newest_step is not None for each in found)
    writing = sum(each.was_writing for each in found)
    screen.print(f"{num_equal} of {kills} kills: the same bits ({resumed} resumed, the others began "
              f"anew; {writing} killed amid a write)")  # fmt: skip
    if out is not None:
        run = {"kind": "run", "ranks": ranks, "strategy": strategy, "epochs": epochs, "every": every, "time_s": took_s}  # fmt: skip
        write_records(out, [first, run, *map(asdict, found)])
    if num_equal < kills:
        sys.exit(1)


def _kill_and_resume(command: list[str], directory: Path, whole: Path, after_s: float) -> Kill | None:  # fmt: skip
    """Return what a kill ``after_s`` led to, or None if the training had already ended."""
    process = _start(command, directory)
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        _kill_tree(process.pid)
        process.communicate()
    else:
        return None
    steps = _steps(directory)
    newest = max((step for step, is_finished in steps.items() if is_finished), default=None)
    start_s = perf_counter()
    _finish(_start([*command, "--resume"], directory))
    return Kill(
        "kill", after_s, newest, not all(steps.values()), perf_counter() - start_s,
        _weights(directory) == _weights(whole),
    )  # fmt: skip


def _start(command: list[str], directory: Path) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    files = ["--checkpoint", str(directory / "checkpoints"), "--save", str(directory / "weights")]
    return subprocess.Popen(
        [*command, *files], text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise UsageError(f"the training must end with status 0, got {process.returncode}: {errors}")


def _kill_tree(root: int) -> None:
    """Kill ``root`` and all that descends from it, and return once none of them is left.

    Launchers put their ranks into sessions of their own, so the process group is not enough. A rank
    that lives on for a moment would write on.
    """
    tree: set[int] = set()
    more = {root}
    while more:  # stopped first, so that none starts another meanwhile
        for pid in more:
            _signal(pid, signal.SIGSTOP)
        tree |= more
        parents = {int(pid): _parent(pid) for pid in os.listdir("/proc") if pid.isdigit()}
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
    for pid in tree:
        _signal(pid, signal.SIGKILL)
    while any(_parent(str(pid)) is not None for pid in tree):
        time.sleep(0.01)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it may end by itself meanwhile
        os.kill(pid, number)


def _parent(pid: str) -> int | None:
    """Return the parent of the process ``pid``, None if it has ended."""
    try:
        fields = Path("/proc", pid, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def _steps(directory: Path) -> dict[int, bool]:
    """Return the steps of which there are checkpoints, and whether each is finished."""
    return {
        int(folder.name.removeprefix("step-")): (folder / "manifest.json").is_file()
        for folder in (directory / "checkpoints").glob("step-*")
    }


def _weights(directory: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(directory / "weights").items()}


if __name__ == "__main__":
    run_app(app)
