"""Writers that are killed: ``python -m tests.exec.runtime.checkpoint.killed_writer HOW RANKS KEEP DIR``.

Each keeps KEEP checkpoints. ``each``: a child is killed in the write of step 3, before its first change of the disk, another
before its second, and so on until one survives. ``whenever``: 20 children write without end and are
killed at random moments. After each, a training goes on from what is there. Prints a JSON list.
"""

import itertools
import json
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from exec.program.mesh import Mesh
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from tests.exec.runtime.checkpoint.drawn_state import Training

Tell = Callable[[str], None]
KILLS = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training that goes on finds, and what its next write leaves.

    ``last`` is what the one before was about to do when it ended.
    """

    last: str
    was_killed: bool
    known: int  # the newest step that had been finished for certain
    step: int
    is_right: bool
    refused: tuple[str, ...]
    next_names: list[str]


def go_on(
    training: Training, directory: Path, last: str, known: int, keep: int, *, was_killed: bool
) -> Outcome:
    """Return what a training that resumes in ``directory`` finds, and what its next write leaves."""
    found = training.find(directory)
    step, is_right = found.manifest.progress.num_steps, training.is_right(found)

    def body(wire: Transport) -> None:
        store, _ = training.resume(directory, wire, keep=keep)
        training.write(store, step + 1)

    run_threads(training.mesh.world_size, body)
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    return Outcome(last, was_killed, known, step, is_right, found.refused, names)


def in_child(body: Callable[[Tell], None], until: int | None = None) -> tuple[list[str], bool]:
    """Return what a child that runs ``body`` told, and whether it was killed.

    It is killed when ``until`` lines have arrived here; by then it has gone on.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            body(lambda line: os.write(writing, f"{line}\n".encode()) and None)
        except BaseException as error:  # noqa: BLE001  # told to the parent
            os.write(writing, f"{error!r}\n".encode())
        os._exit(0)
    os.close(writing)
    told: list[str] = []
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            told.append(line.rstrip())
            if len(told) == until:
                os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return told, status == -signal.SIGKILL


def killed_at(training: Training, directory: Path, number: int, keep: int) -> Outcome:
    """Return what is left of a write of step 3 that is killed before change ``number`` of the disk."""
    training.write_steps(directory, [1, 2], keep=keep)
    lock, count = threading.Lock(), itertools.count(1)

    def body(tell: Tell) -> None:
        def announce(what: str) -> None:
            with lock:  # the other ranks are threads, and must not go on meanwhile
                tell(what)
                if next(count) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        def write(wire: Transport) -> None:
            store, _ = training.resume(directory, wire, keep=keep, announce=announce)
            training.write(store, 3)

        run_threads(training.mesh.world_size, write)

    told, was_killed = in_child(body)
    return go_on(training, directory, told[-1], 2, keep, was_killed=was_killed)


def killed_whenever(training: Training, directory: Path, until: int, keep: int) -> Outcome:
    """Return what is left by a writer that is killed soon after it has told ``until`` lines."""
    training.write_steps(directory, [1])

    def body(tell: Tell) -> None:
        def write(wire: Transport) -> None:
            store, _ = training.resume(directory, wire, keep=keep, announce=tell)
            for step in itertools.count(2):
                training.write(store, step)

        run_threads(training.mesh.world_size, write)

    told, was_killed = in_child(body, until)
    made = [int(match[1]) for line in told if (match := re.fullmatch(r"make step-(\d+)", line))]
    return go_on(training, directory, told[-1], made[-1] - 1, keep, was_killed=was_killed)


def main(how: str, ranks: int, keep: int, directory: Path) -> None:
    """Print the outcomes."""
    training = Training(Mesh(dp=ranks))
    outcomes: list[Outcome] = []
    if how == "each":
        while not outcomes or outcomes[-1].was_killed:
            number = len(outcomes) + 1
            outcomes.append(killed_at(training, directory / str(number), number, keep))
    else:
        generator = random.Random(ranks)
        for number in range(KILLS):
            until = generator.randint(2, 80)
            outcomes.append(killed_whenever(training, directory / str(number), until, keep))
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
