"""All there is to measure on a machine with a GPU, in one call: ``python benchmarks/measure_gpu.py``.

Parts, each with a log and a limit of its own: what the machine is; the tests that need a GPU; the
calibration, and forecasts checked by it; the benchmarks in groups; and the scaling over CPU cores.
A part that fails or runs out of time does not stop the others. The same command goes on where it
stopped: what is done is not done again unless ``--parts`` names it. After every part all files are
packed into ``measured-gpu.tar.gz`` beside ``measured-gpu.jsonl``, which says what was run and how it
ended; so whatever ends this early, what was measured is there.
"""

import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

from cyclopts import Parameter
from records import provenance, write_records
from rich.console import Console

from exec.cli import console, make_app, run_app
from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import UsageError, unknown_name
from exec.workload import positive

ROOT = Path(__file__).parents[1]
PACKED, SUMMARY = "measured-gpu.tar.gz", "measured-gpu.jsonl"
_LEAST_SHARE = 0.6  # of a part's limit that must be left, or it is not begun
_GRACE_S = 20.0  # left for packing

Flag = Annotated[bool, Parameter(negative=())]
Record = dict[str, Any]

app = make_app("python benchmarks/measure_gpu.py", "Measure all there is on a machine with a GPU.")


@dataclass(frozen=True, slots=True)
class Part:
    """A command with its limit; one that needs no GPU runs anywhere."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    needs_gpu: bool = True


def parts(device: DeviceKind, folder: Path, *, is_quick: bool) -> list[Part]:
    """Return all parts, in order; their files go to ``folder``."""
    quick = ("--quick",) * is_quick
    on = ("--device", str(device))
    limit = {"bench-mlp": 400, "bench-large": 120, "bench-conv": 200, "bench-resnet": 420, "bench-products": 90}  # fmt: skip

    def file(name: str) -> str:
        return str(folder / name)

    def bench(name: str, groups: str) -> Part:
        given = [word for group in groups.split() for word in ("--groups", group)]
        limit_s = float(limit[name])
        return Part(name, ("benchmarks/gpu.py", *on, *quick, *given, "--limit-s", str(0.8 * limit_s),
                           "--out", file(f"{name}.jsonl")), limit_s)  # fmt: skip

    return [
        Part("environment", ("benchmarks/environment.py", "--out", file("environment.jsonl")), 30, needs_gpu=False),
        Part("tests", ("-m", "pytest", "-m", "gpu", "-rs", "-q", "-p", "no:cacheprovider"), 300),
        bench("bench-products", "products replay"),
        bench("bench-mlp", "mlp"),
        bench("bench-large", "large"),
        Part("calibrate", ("-m", "calibration", *on, *quick, "--name", "gpu", "--out", file("machine-gpu.json"),
                           "--samples", file("calibration-gpu.jsonl")), 180),
        Part("check", ("-m", "sim.check", *on, "--machine", file("machine-gpu.json"), "--repeats", "1" if is_quick else "3",
                       "--out", file("check-gpu.jsonl")), 180),
        Part("calibrate-tf32", ("-m", "calibration", *on, "--tf32", *quick, "--name", "gpu-tf32", "--out",
                                file("machine-gpu-tf32.json"), "--samples", file("calibration-gpu-tf32.jsonl")), 180),
        bench("bench-conv", "conv"),
        bench("bench-resnet", "resnet"),
        Part("scaling", ("benchmarks/scaling.py", *quick, "--rounds", "3", "--out", file("scaling.jsonl")), 560, needs_gpu=False),
    ]  # fmt: skip


@app.default
def measure_gpu(
    *, out: Path, parts: tuple[str, ...] = (), device: DeviceKind = DeviceKind.GPU, limit_s: float = 580.0,
    work: Path = ROOT / "build" / "measured-gpu", quick: Flag = False,
) -> None:  # fmt: skip
    """Measure all there is on a machine with a GPU.

    Parameters
    ----------
    out
        The folder that gets the packed files and the summary.
    parts
        Only these, done before or not: environment, tests, bench-products, bench-mlp, bench-large,
        calibrate, check, calibrate-tf32, bench-conv, bench-resnet, scaling.
    device
        gpu, or emulated, to see that everything starts and ends.
    limit_s
        The seconds that all of it may take; what does not fit is left for the next call.
    work
        The folder where files and logs are kept meanwhile, and looked for.
    quick
        Tiny sizes.
    """
    end_s = perf_counter() + limit_s
    positive("limit-s", limit_s)
    for option, folder in (("out", out), ("work", work)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{option} must be a folder that can be written, got {folder}: {error}") from error  # fmt: skip
    chosen = _chosen(parts, device, work.absolute(), is_quick=quick)
    if any(part.needs_gpu for part in chosen):
        open_device(device, 0).close()
    head = provenance("torch", "cupy-cuda13x", "nvmath-python", "nvidia-cudnn-frontend", "mpi4py")
    done: dict[str, Record] = {}
    for part in chosen:
        done[part.name] = _run(part, work, end_s - _GRACE_S - perf_counter())
        write_records(work / SUMMARY, [head, *_summary(work, done)])
        _pack(work, out)
    screen = console(100)
    for name, record in done.items():
        screen.print(
            f"{name:16s} {record['ended']:12s} {record['time_s']:7.1f} s  {record['said']}"
        )
    if any(record["ended"] != "well" for record in done.values()):
        sys.exit(1)


def _chosen(names: tuple[str, ...], device: DeviceKind, work: Path, *, is_quick: bool) -> list[Part]:  # fmt: skip
    known = {part.name: part for part in parts(device, work, is_quick=is_quick)}
    for name in names:
        if name not in known:
            raise UsageError(unknown_name("parts", name, known))
    if names:
        return [known[name] for name in names]
    before = {each["part"]: each["ended"] for each in _known(work)}
    return [part for part in known.values() if before.get(part.name) != "well"]


def _run(part: Part, work: Path, left_s: float) -> Record:
    """Return how ``part`` ended, its output in a log; it and what it started are killed in the end."""
    command = [sys.executable, *part.command]
    found: Record = {
        "kind": "part",
        "part": part.name,
        "command": " ".join(["python", *part.command]),
    }
    if left_s < _LEAST_SHARE * part.limit_s:
        said = f"it may take {part.limit_s:.0f} s, and {max(left_s, 0):.0f} s were left"
        return found | {"ended": "not begun", "time_s": 0.0, "said": said}
    Console(stderr=True, highlight=False).print(f"{part.name}: {found['command']}")
    start_s, log = perf_counter(), work / f"{part.name}.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with (
        log.open("w", encoding="utf-8") as lines,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=lines,
                         stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):  # fmt: skip
        try:
            status = process.wait(min(part.limit_s, left_s))
            ended = "well" if status == 0 else f"status {status}"
        except subprocess.TimeoutExpired:
            ended = "out of time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]  # fmt: skip
    return found | {"ended": ended, "time_s": round(perf_counter() - start_s, 1), "said": said[-1] if said else ""}  # fmt: skip


def _known(work: Path) -> list[Record]:
    """Return what earlier calls left in the summary."""
    path = work / SUMMARY
    if not path.is_file():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [each for each in records if each["kind"] == "part"]


def _summary(work: Path, done: dict[str, Record]) -> list[Record]:
    return list(({each["part"]: each for each in _known(work)} | done).values())


def _pack(work: Path, out: Path) -> None:
    """Put all that is there into one file, whole at every moment, and the summary beside it."""
    unfinished = out / f"{PACKED}.unfinished"
    with tarfile.open(unfinished, "w:gz") as packed:
        for path in sorted(work.iterdir()):
            packed.add(path, path.name)
    unfinished.replace(out / PACKED)
    (out / SUMMARY).write_bytes((work / SUMMARY).read_bytes())


if __name__ == "__main__":
    run_app(app)
