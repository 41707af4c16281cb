"""All records of this machine that the report and the README show: ``python benchmarks/measure.py``.

In parts, each with a log and a limit of its own, and files that appear when it is through. A part that
fails stops no other. The same command goes on where it stopped: a part that went well at this commit
is not measured again unless ``--parts`` names it, or all have gone well. The machine should be quiet;
the last part, of kills, needs no quiet.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from cyclopts import Parameter
from mpi_runs import launcher
from records import commit, provenance, write_records
from rich.console import Console

from exec.cli import console, make_app, run_app
from exec.errors import UsageError, unknown_name

ROOT = Path(__file__).parents[1]
MEASURED, WORK, SUMMARY = ROOT / "paper" / "measurements", ROOT / "build" / "measure", "parts.jsonl"
HOST = "2core-epyc"
_LIMIT, _LEAST_LIMIT_S = (
    2.5,
    180.0,
)  # times what a part takes on a quiet machine, but so long at least
_QUICK_LIMIT_S = 1800.0  # such runs are for busy machines, too

Flag = Annotated[bool, Parameter(negative=())]
Record = dict[str, Any]

app = make_app("python benchmarks/measure.py", "Measure all that the report shows.")


@dataclass(frozen=True, slots=True)
class Part:
    """Commands one after the other, and about how long they take; where output goes, if anywhere."""

    name: str
    about_s: float
    commands: tuple[tuple[str, ...], ...]
    printed: Path | None = None


def parts(out: Path, work: Path, data_dir: Path | None, *, is_quick: bool) -> Iterator[Part]:
    """Yield all parts, in order."""
    python, machine = sys.executable, out / f"machine-{HOST}.json"
    samples = [out / f"calibration-{HOST}-{run}.jsonl" for run in ((1,) if is_quick else (1, 2, 3))]

    def module(name: str, *arguments: str) -> tuple[str, ...]:
        return (python, "-m", name, *arguments)

    def bench(name: str, *arguments: str, quick: str = "", file: str = "") -> tuple[str, ...]:
        short = quick.split() if is_quick else ()
        path = out / (file or f"{name.replace('_', '-')}-{HOST}.jsonl")
        return (python, f"benchmarks/{name}.py", *arguments, *short, "--out", str(path))  # fmt: skip

    def check(kind: str, repeats: int, file: str) -> tuple[str, ...]:
        count = "1" if is_quick else str(repeats)
        return module("sim.check", "--machine", str(machine), "--repeats", count, "--net-kind", kind, "--out", str(out / file))  # fmt: skip

    def data(name: str) -> tuple[str, ...]:
        if data_dir is None:
            return ()
        own = data_dir / name
        return ("--data-dir", str(own if own.is_dir() else data_dir))

    quick = ("--quick",) * is_quick
    ranks = (launcher(), "-n", "2")
    scratch = str(work / "machine.json")
    fits = [word for path in samples for word in ("--fit", str(path))]
    yield Part("calibration", 255, (
        *((*ranks, *module("calibration", *quick, "--out", scratch, "--samples", str(path))) for path in samples),
        module("calibration", "--name", "measured", "--out", str(machine), *fits),
        *(() if is_quick else (module("calibration.presets"),)),
    ))  # fmt: skip
    yield Part("check-mlp", 70, (check("mlp", 3, f"check-{HOST}.jsonl"),))
    yield Part("check-conv", 95, (check("conv", 2, f"check-conv-{HOST}.jsonl"),))
    turns = (
        "--rounds 1 --conv-rounds 1 --two-rank-rounds 1"
        if is_quick
        else "--rounds 11 --conv-rounds 5 --two-rank-rounds 7"
    )
    yield Part("trainer", 360, (bench("trainer", *turns.split()),))
    yield Part("collectives", 20, (bench("collectives", quick="--rounds 2"),))
    large = () if is_quick else ("--large", "--rounds", "3")
    yield Part("simulator", 440, (bench("simulator", *large, quick="--rounds 1"),))
    yield Part("startup", 130, (bench("startup", quick="--rounds 1"),))
    yield Part("memory", 115, (bench("memory", "--rounds", "1" if is_quick else "2"),))
    yield Part("plan-memory", 40, (bench("plan_memory", quick="--microbatches 2"),))
    yield Part("mnist", 215, (bench("mnist", *data("mnist"), quick="--nets resnet18-small --steps 4"),))  # fmt: skip
    scheme_rounds = ("--rounds", "1" if is_quick else "2")
    yield Part("schemes", 270, (bench("schemes", "--machine", str(machine), *data("letters"), *scheme_rounds, quick="--epochs 2 --ranks 2"),))  # fmt: skip
    yield Part("slow-node", 60, (bench("slow_node", "--machine", str(machine), quick="--rounds 1"),))  # fmt: skip
    letters = module("exec.train", "--data", "letters", "--json", *data("letters"), "--epochs", "1" if is_quick else "10")  # fmt: skip
    yield Part("letters", 3, (letters,), out / f"letters-{HOST}.json")
    yield Part("scaling", 120, (bench("scaling", "--machine", str(machine), "--rounds", "3", quick="--quick"),))  # fmt: skip
    yield Part("kills", 270, (
        bench("kill_search", quick="--kills 1", file="kill-search.jsonl"),
        bench("kill_training", quick="--kills 1", file="kill-training.jsonl"),
    ))  # fmt: skip


@app.default
def measure(
    *, out: Path = MEASURED, parts_: Annotated[tuple[str, ...], Parameter(name="--parts")] = (),
    data_dir: Path | None = None, work: Path = WORK, quick: Flag = False,
) -> None:  # fmt: skip
    """Measure all that the report and the README show.

    Parameters
    ----------
    out
        The folder for the records.
    parts_
        Only these, done before or not: calibration, check-mlp, check-conv, trainer, collectives,
        simulator, startup, memory, plan-memory, mnist, schemes, slow-node, letters, scaling, kills.
    data_dir
        Where the data sets lie, or folders of theirs called letters and mnist; they are downloaded
        unless given.
    work
        The folder for logs, and the list of what is done.
    quick
        Tiny sizes, to see that everything works; not for the report's folder.
    """
    if quick and out.resolve() == MEASURED:
        raise UsageError("out must be another folder with --quick, got that of the report")
    for option, folder in (("out", out), ("work", work)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{option} must be a folder that can be written, got {folder}: {error}") from error  # fmt: skip
    known = {part.name: part for part in parts(_short(out), _short(work), data_dir and _short(data_dir), is_quick=quick)}  # fmt: skip
    for name in parts_:
        if name not in known:
            raise UsageError(unknown_name("parts", name, known))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    head, at = provenance(), commit()
    before = {each["part"]: each for each in read_summary(work)}
    chosen = [known[name] for name in parts_ or to_do(list(known), before, at)]
    for number, part in enumerate(chosen, 1):
        left_s = sum(each.about_s for each in chosen[number - 1 :])
        _say(f"{number} of {len(chosen)}: {part.name}, about {part.about_s:.0f} s ({left_s / 60:.0f} minutes left)")  # fmt: skip
        limit_s = _QUICK_LIMIT_S if quick else max(_LEAST_LIMIT_S, _LIMIT * part.about_s)
        before[part.name] = _run(part, work, limit_s) | {"commit": at}
        write_records(work / SUMMARY, [head, *before.values()])
    screen = console(120)
    done = [before[part.name] for part in chosen]
    for each in done:
        screen.print(f"{each['part']:12s} {each['ended']:12s} {each['time_s']:7.1f} s  {each['said']}")  # fmt: skip
    if any(each["ended"] != "well" for each in done):
        sys.exit(1)


def _short(path: Path) -> Path:
    """Return ``path`` from the root, where the commands run: records hold it, and no folders of a machine."""
    full = path.absolute()
    return full.relative_to(ROOT) if full.is_relative_to(ROOT) else full


def to_do(names: list[str], before: dict[str, Record], at: str) -> list[str]:
    """Return which parts have not gone well at this commit; all, if every one has.

    >>> to_do(["a", "b"], {"a": {"ended": "well", "commit": "1"}}, "1")
    ['b']
    """
    well = {name for name, each in before.items() if (each["ended"], each["commit"]) == ("well", at)}  # fmt: skip
    return [name for name in names if name not in well] or names


def read_summary(work: Path) -> list[Record]:
    """Return what earlier calls did."""
    path = work / SUMMARY
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:]


def _run(part: Part, work: Path, limit_s: float) -> Record:
    """Return how ``part`` ended, its output in a log; what it started is killed in the end."""
    start_s, log, ended = perf_counter(), work / f"{part.name}.log", "well"
    end_s = start_s + limit_s
    with log.open("w", encoding="utf-8") as lines:
        for command in part.commands:
            lines.write(f"$ {shlex.join(command)}\n")
            lines.flush()
            ended = _command(part, command, lines.fileno(), end_s - perf_counter())
            if ended != "well":
                break
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return {
        "kind": "part", "part": part.name, "ended": ended, "said": said[-1] if ended != "well" else "",
        "time_s": round(perf_counter() - start_s, 1),
    }  # fmt: skip


def _command(part: Part, command: tuple[str, ...], log: int, left_s: float) -> str:
    """Return how ``command`` ended; what it prints goes to the part's file once it went well."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    output = subprocess.PIPE if part.printed else log
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                          stderr=log, text=True, start_new_session=True) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=max(left_s, 0.0))
        except subprocess.TimeoutExpired:
            return "out of time"
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        return f"status {process.returncode}"
    if part.printed:
        (ROOT / part.printed).write_text(printed, encoding="utf-8")
    return "well"


def _say(what: str) -> None:
    Console(stderr=True, highlight=False).print(what)


if __name__ == "__main__":
    run_app(app)
