"""A disk that refuses: ``python -m tests.exec.runtime.checkpoint.spoilt_disk HOW DIR``.

``barred``: the folder is another user's. ``limited``: files may have 100 bytes. ``full``: DIR is a
small file system, and is filled. ``read-only``: DIR is one that becomes so. Then the disk is mended,
and a training goes on. Prints one JSON object.
"""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from exec.errors import StepcastError
from exec.program.mesh import Mesh
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from tests.exec.runtime.checkpoint.drawn_state import Training
from tests.exec.runtime.checkpoint.killed_writer import go_on

NOBODY = 65534


def bar(directory: Path) -> Callable[[], None]:
    """Take the right to write away, from root too by becoming another user."""
    directory.chmod(0o500)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)

    def mend() -> None:
        os.seteuid(os.getuid())
        directory.chmod(0o700)

    return mend


def limit(directory: Path) -> Callable[[], None]:
    """Let no file have more than 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(directory: Path) -> Callable[[], None]:
    """Leave no block of the file system free."""
    filler = directory / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return filler.unlink


def lock(directory: Path) -> Callable[[], None]:
    """Make the file system read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    return lambda: subprocess.run(
        ["mount", "-o", "remount,rw", str(directory)], check=True
    ) and None  # fmt: skip


SPOIL = {"barred": bar, "limited": limit, "full": fill, "read-only": lock}


def main(how: str, directory: Path) -> None:
    """Print what came of it."""
    training, message = Training(Mesh(dp=2)), ""
    training.write_steps(directory, [1, 2])
    mends: list[Callable[[], None]] = []

    def write(wire: Transport) -> None:
        store, _ = training.resume(directory, wire)
        if wire.rank == 0:
            mends.append(SPOIL[how](directory))
        wire.gather_objects(None)
        training.write(store, 3)

    try:
        run_threads(2, write)
    except StepcastError as error:
        message = str(error)
    mends[0]()
    print(json.dumps(asdict(go_on(training, directory, message, 2, 2, was_killed=False))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
