"""Command lines in this process; as a program, one after another on the same ranks.

``mpiexec -n P python -m tests.command_lines MODULE FILE`` pays once for a launch: the file holds a list
of lists of words, and rank 0 prints how each line ended on each rank. A rank that does not end as all
have agreed ends the launch, as it should.
"""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

from cyclopts import App

from exec.cli import run_app
from exec.transport.mpi import connect

Finished = CompletedProcess[str]


def run_line(app: App, words: Sequence[str]) -> Finished:
    """Run the command line ``words`` of ``app`` to its end, and return how it ended."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, [*app.name, *words]  # which records keep
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_app(app, words)
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.argv = before
    return Finished(words, status, out.getvalue(), err.getvalue())


def main(module: str, file: str) -> None:
    """Run the lines in ``file`` as those of ``module``."""
    app = import_module(module).app
    ended = [run_line(app, words) for words in json.loads(Path(file).read_text(encoding="utf-8"))]
    wire = connect()
    on_ranks = wire.gather_objects([(e.args, e.returncode, e.stdout, e.stderr) for e in ended])
    if wire.rank == 0:
        print(json.dumps(list(zip(*on_ranks, strict=True))))


if __name__ == "__main__":
    main(*sys.argv[1:])
