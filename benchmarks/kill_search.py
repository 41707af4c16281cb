"""Kill a search at random moments: ``python benchmarks/kill_search.py``.

A search is killed (SIGKILL to mpiexec, or to the one process) at a random moment after it has said
its first line, started again, and so on for as many kills as asked, each kill in a search that has
trials left. Where a search comes to its end before all kills are done, the next begins in a new
folder. Every search must end with each trial there once, and with the accuracies, losses and best
weights of a search that nobody killed, to the bit. A record says for each kill how many trials
were finished and how many of them the next start found: the same number, or one was lost.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from records import check_writable, provenance, write_records
from safetensors.numpy import load_file

from exec.cli import console, make_app, run_app
from exec.search.journal import read_journal
from exec.workload import positive

ROOT = Path(__file__).parents[1]
SEARCH = (
    "--num-train", "400", "--num-test", "100", "--epochs", "40", "--layers", "1,2,3", "--units",
    "12,25,50", "--lr", "0.25,0.5,1",
)  # fmt: skip
NUM_TRIALS = 27
LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "SLURM_", "HYDI_", "MPI_")

app = make_app("python benchmarks/kill_search.py", "Kill a search at random moments.")


@app.default
def kill_search(*, kills: int = 20, ranks: int = 3, seed: int = 0, out: Path | None = None) -> None:  # fmt: skip
    """Kill a search at random moments, and compare what it comes to with one that nobody killed.

    Parameters
    ----------
    kills
        How often to kill.
    ranks
        Under mpiexec on so many ranks; 1 is without it.
    seed
        Of the moments.
    out
        Write the records here, as JSON lines.
    """
    positive("kills", kills)
    positive("ranks", ranks)
    check_writable(out)
    head = provenance("mpi4py", "mpich")
    with TemporaryDirectory() as name:
        folder = Path(name)
        start_s = perf_counter()
        _finish(_command(folder / "whole", ranks))
        whole_s = perf_counter() - start_s
        expected = came_to(folder / "whole")
        records = list(_kills(folder, kills, ranks, seed, expected))
    summary = {
        "kind": "summary", "ranks": ranks, "trials": NUM_TRIALS, "unkilled_s": whole_s,
        "kills": sum(record["kind"] == "kill" for record in records),
        "lost": sum(int(record.get("lost", 0)) for record in records),  # type: ignore[call-overload]  # a number
        "repeated": sum(int(record.get("repeated", 0)) for record in records),  # type: ignore[call-overload]  # a number
        "searches": sum(record["kind"] == "search" for record in records),
        "equal": sum(record.get("equal") is True for record in records),
    }  # fmt: skip
    if out is not None:
        write_records(out, [head, *records, summary])
    console().print(
        f"{summary['kills']} kills on {ranks} ranks, {summary['lost']} finished trials lost, {summary['repeated']} run twice; "
        f"{summary['equal']} of {summary['searches']} searches came to the same bits"
    )
    if summary["lost"] or summary["repeated"] or summary["equal"] != summary["searches"]:
        raise RuntimeError("a killed search differs from one that was not killed")


def _kills(
    folder: Path, kills: int, ranks: int, seed: int, expected: object
) -> Iterator[dict[str, object]]:
    """Yield a record for each kill, and one for each search that then came to its end."""
    draw = random.Random(seed)  # noqa: S311  # moments, not secrets
    done = number = 0
    while done < kills:
        out = folder / str(number)
        command = _command(out, ranks)
        finished: set[int] = set()
        while done < kills and len(finished) < NUM_TRIALS:
            moment_s = draw.uniform(0.0, 0.5)
            was_killed, told = _run_until(command, moment_s)
            found = set(read_journal(out / "trials.jsonl").trials)
            if was_killed:
                done += 1
                yield {
                    "kind": "kill", "kill": done, "search": number, "moment_s": moment_s,
                    "finished_before": len(finished), "finished": len(found), "lost": len((finished | told) - found),
                    "repeated": len(finished & told),
                }  # fmt: skip
            finished = found
        _finish(command)
        contents = read_journal(out / "trials.jsonl")
        yield {
            "kind": "search", "search": number, "sessions": len(contents.sessions),
            "trials": len(contents.trials), "equal": came_to(out) == expected,
        }  # fmt: skip
        number += 1


def came_to(out: Path) -> object:
    """Return what a search in ``out`` found, without times: all trials, and the best's weights."""
    trials = read_journal(out / "trials.jsonl").trials  # each is there once, or it raises
    best = json.loads((out / "best.json").read_text(encoding="utf-8"))
    return (
        {
            index: (trial.config, trial.state, trial.accuracy, trial.loss,
                    [(epoch.loss, epoch.accuracy) for epoch in trial.epochs])
            for index, trial in sorted(trials.items())
        },
        best["trial"]["index"], best["test_accuracy"],
        {name: tensor.tobytes() for name, tensor in load_file(out / "best.safetensors").items()},
    )  # fmt: skip


def _command(out: Path, ranks: int) -> list[str]:
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks > 1 else []  # fmt: skip
    return [*launcher, sys.executable, "-m", "exec.tune", *SEARCH, "--out", str(out)]


def _start(command: list[str]) -> "subprocess.Popen[str]":
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_PREFIXES)}
    return subprocess.Popen(command, cwd=ROOT, env=kept, text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def _run_until(command: list[str], moment_s: float) -> tuple[bool, set[int]]:
    """Run ``command`` and kill it that long after its first line, if it is still running then.

    Return whether it was, and the trials that it has told of.
    """
    with _start(command) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"the search did not start: {process.communicate()[1]}")
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        was_running = process.poll() is None
        if was_running:
            os.killpg(process.pid, signal.SIGKILL)
        told = process.communicate()[0]
    return was_running, {int(index) for index in re.findall(r"^trial +(\d+)  .*\n", told, re.MULTILINE)}  # fmt: skip


def _finish(command: list[str]) -> None:
    with _start(command) as process:
        _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the search ended with status {process.returncode}: {err}")


if __name__ == "__main__":
    run_app(app)
