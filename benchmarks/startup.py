"""What a command takes before it answers, as a whole process: ``python benchmarks/startup.py``.

Each command is a fresh process of this interpreter: wall seconds, and CPU seconds of it and its
children; the most memory that it held is of one more run, which tells it at its end. Those of ``python -c pass`` are the floor: no command of Python can
take less. All take turns in every round, ratios are taken inside a round, and all is shown as the
median (least..most). Forecasts are on a Machine that is named, so nothing is calibrated.

Bytecode is kept in a folder of its own, and a first round that does not count fills it, as pip's
installation would: ``PYTHONDONTWRITEBYTECODE`` would have every process compile all its sources.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import Spread, interleave, ratio, spread

from exec.cli import console, make_app, run_app
from exec.workload import positive

FLOOR = "-c pass"
LIMITS_S = {
    "sim.predict --nodes 64": 0.6,
    "sim.predict --nodes 64 --net resnet18 --batch 256": 0.6,
    "sim.predict --nodes 65536 --net 784-512-512-26": 2.0,
    "sim.predict --nodes 65536 --net resnet18 --batch 65536": 2.0,
}
"""What a forecast may take."""
MODULES = (
    "sim.predict --help",
    "sim.predict --nodes 64",
    "sim.predict --nodes 64 --net cnn",
    "sim.predict --nodes 64 --net resnet18 --batch 256",
    "sim.predict --nodes 65536 --net 784-512-512-26",
    "sim.predict --nodes 65536 --net resnet18 --batch 65536",
    "sim.compare --nodes 64",
    "exec.tune --help",
    "exec.train --help",
    "exec.program --strategy hybrid --dp 2 --pp 2 --microbatches 2",
)
_FORECASTS = ("sim.predict", "sim.compare")

_TELLS_PEAK = """
import atexit, re, runpy, sys

def tell():
    with open("/proc/self/status") as status, open(sys.argv_of_peak, "w") as file:
        file.write(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])

sys.argv_of_peak, flag, name, *rest = sys.argv[1:]
atexit.register(tell)
sys.argv = [name, *rest]
if flag == "-m":
    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:
    exec(name)
"""
"""What runs a command and writes its peak: a forked process is told that of its parent."""

app = make_app("python benchmarks/startup.py", "Measure commands as whole processes.")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float


@app.default
def startup(*, rounds: int = 5, machine: str = "ethernet-cluster", out: Path | None = None) -> None:
    """Measure commands as whole processes.

    Parameters
    ----------
    rounds
        How often each command takes its turn.
    machine
        The Machine of the forecasts.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(out)
    commands = {
        FLOOR: ("-c", "pass"),
        "import numpy": ("-c", "import numpy"),
        "import sim.predict": ("-c", "import sim.predict"),
        **{name: _command(name, machine) for name in MODULES},
    }
    with TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        turns = interleave(
            {name: lambda _, told=told: cost(told, env) for name, told in commands.items()},
            range(rounds + 1),
        )
        peaks = {name: peak_nbytes(told, env) for name, told in commands.items()}
    costs = {name: each[1:] for name, each in turns.items()}
    records = [_record(name, machine, each, costs[FLOOR], peaks[name]) for name, each in costs.items()]  # fmt: skip
    head = provenance("numpy", "pydantic", "cyclopts", "rich")
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records, rounds)


def cost(arguments: tuple[str, ...], env: dict[str, str]) -> Cost:
    """Return what the interpreter takes with ``arguments``, its answer thrown away."""
    start_s = perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], env=env, stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return Cost(wall_s, usage.ru_utime + usage.ru_stime)


def peak_nbytes(arguments: tuple[str, ...], env: dict[str, str]) -> float:
    """Return the most memory that the interpreter holds with ``arguments``; Linux only."""
    with TemporaryDirectory() as folder:
        told = Path(folder) / "peak"
        command = [sys.executable, "-c", _TELLS_PEAK, str(told), *arguments]
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
        return 1024.0 * int(told.read_text(encoding="ascii"))


def _command(name: str, machine: str) -> tuple[str, ...]:
    module, *options = shlex.split(name)
    if module in _FORECASTS and "--help" not in options:
        options += ["--machine", machine]
    return "-m", module, *options


def _record(
    name: str, machine: str, costs: list[Cost], floor: list[Cost], peak: float
) -> dict[str, Any]:
    wall_s = [each.wall_s for each in costs]
    return {
        "kind": "startup",
        "what": name,
        "machine": machine,
        "wall_s": asdict(spread(wall_s)),
        "cpu_s": asdict(spread([each.cpu_s for each in costs])),
        "peak_nbytes": peak,
        "wall_over_floor": asdict(ratio(wall_s, [each.wall_s for each in floor])),
        "limit_s": LIMITS_S.get(name),
    }


def _print(head: dict[str, object], records: list[dict[str, Any]], rounds: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("python", "wall, s", "CPU, s", "peak, MiB", "wall / floor", "goal, s"):
        table.add_column(heading, justify="left" if heading == "python" else "right", no_wrap=True)
    for record in records:
        table.add_row(
            record["what"], _spread(record["wall_s"]), _spread(record["cpu_s"]),
            f"{record['peak_nbytes'] / 2**20:.0f}", _spread(record["wall_over_floor"]),
            "" if record["limit_s"] is None else f"{record['limit_s']:g}",
        )  # fmt: skip
    out = console(180)
    out.print(f"whole processes, on {records[-1]['machine']}; median (least..most) of {rounds} rounds\n"
              f"{head['cpu']}, Python {head['python']}, load average {head['load_average']}\n")  # fmt: skip
    out.print(table, crop=False)


def _spread(values: dict[str, float]) -> str:
    return str(Spread(**values))


if __name__ == "__main__":
    run_app(app)
