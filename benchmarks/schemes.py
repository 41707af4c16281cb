"""Every way of sharing the work, run and forecast: ``python benchmarks/schemes.py``.

Each scheme trains the same network on the same letters for the same epochs, on 1, 2 and 4 ranks,
as ``mpiexec -n P python -m exec.train`` (and, on shared memory, also as threads of one process).
Rounds are interleaved: all schemes once, then again. Told for each, over the rounds: the median
time of an epoch (least..most), the bytes that all ranks send in one, the test accuracy after the
last, and the forecast of the epoch's time by ``--machine`` with its error. Ranks beyond the cores
are marked; the forecast knows that they share cores, and was calibrated on none such.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records import check_writable, provenance, write_records
from rich.table import Table

from calibration.find import find_machine
from calibration.machine import Machine
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import MASTERS, SERVERS, SHARED, Strategy, mesh_of
from exec.program.ops import Algorithm
from exec.workload import Workload, positive
from sim.engine import READERS, Engine
from sim.forecast import Forecast, forecast

EVERY = (1, 4, 16, 64, 0)
NET, BATCH, RATE = "128-100-26", 32, 0.5

app = make_app("python benchmarks/schemes.py", "Run and forecast every way of sharing the work.")


@dataclass(frozen=True, slots=True)
class Case:
    """One scheme on ``ranks`` ranks."""

    ranks: int
    options: PlanOptions
    transport: str = "mpi"
    independent_starts: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        options = self.options
        every = f" every {options.average_every or 'epoch'}"
        parts = [str(options.strategy)]
        parts += [every.strip()] if options.strategy in (Strategy.AVERAGING, *MASTERS) else []
        parts += [f"{options.servers} serving"] if options.strategy in SERVERS else []
        parts += [str(options.algorithm)] if options.algorithm is not Algorithm.LIBRARY else []
        parts += ["independent starts"] * self.independent_starts
        parts += ["threads"] * (self.transport == "threads")
        return ", ".join(parts)

    def arguments(self) -> list[str]:
        """Return the trainer's flags."""
        options = self.options
        flags = ["--strategy", str(options.strategy), "--algorithm", str(options.algorithm)]
        if options.strategy in (Strategy.AVERAGING, *MASTERS):
            flags += ["--average-every", str(options.average_every or "epoch")]
        if options.strategy in SERVERS:
            flags += ["--servers", str(options.servers)]
        return flags + ["--independent-starts"] * self.independent_starts


def cases(ranks: int) -> Iterator[Case]:
    """Yield the schemes that ``ranks`` ranks admit."""

    def case(strategy: Strategy, **options: Any) -> Case:
        return Case(ranks, PlanOptions(strategy=strategy, **options))

    shared = [Case(ranks, PlanOptions(strategy=each), via) for each in SHARED for via in ("mpi", "threads")]  # fmt: skip
    if ranks == 1:
        yield case(Strategy.SERIAL)
        yield from (each for each in shared if each.transport == "threads")
        return
    yield case(Strategy.DATA)
    yield case(Strategy.DATA, algorithm=Algorithm.RING)
    yield from (case(Strategy.AVERAGING, average_every=every) for every in EVERY)
    for every in (16, 0):
        yield Case(ranks, PlanOptions(strategy=Strategy.AVERAGING, average_every=every), "mpi", True)  # fmt: skip
    for strategy in MASTERS:
        yield from (case(strategy, average_every=every) for every in (1, 16))
    for strategy in SERVERS:
        yield from (case(strategy, servers=count) for count in (1, 2) if count < ranks)
    yield from shared


@app.default
def main(
    *,
    ranks: tuple[int, ...] = (1, 2, 4),
    epochs: int = 5,
    rounds: int = 3,
    data: str = "letters",
    data_dir: Path | None = None,
    machine: str = "local",
    out: Path | None = None,
) -> None:
    """Run and forecast every way of sharing the work.

    Parameters
    ----------
    ranks
        Ranks to run on.
    epochs
        Passes over the training data; the first is not timed.
    rounds
        How often each scheme is run.
    data
        The trainer's data set.
    data_dir
        Where it lies.
    machine
        The Machine that forecasts: that of this machine.
    out
        Write JSON lines here.
    """
    for option, value in (("epochs", epochs - 1), ("rounds", rounds), *(("ranks", each) for each in ranks)):  # fmt: skip
        positive(option, value)
    check_writable(out)
    found = find_machine(machine)
    chosen = [case for count in ranks for case in cases(count)]
    source = ["--data", data, *(["--data-dir", str(data_dir)] if data_dir else [])]
    runs: dict[Case, list[dict[str, Any]]] = {case: [] for case in chosen}
    with console().status("running") as status:
        for number in range(rounds):
            for case in chosen:
                status.update(f"round {number + 1} of {rounds}: {case.name} on {case.ranks} ranks")
                runs[case].append(_run(case, epochs, source))
    records = [_record(found, case, runs[case]) for case in chosen]
    _print(records)
    if out is not None:
        head = provenance("mpi4py", "mpich") | {"data": data, "net": NET, "batch": BATCH, "epochs": epochs, "rate": RATE, "forecast_by": found.name}  # fmt: skip
        head["command"] = f"python benchmarks/schemes.py --epochs {epochs} --rounds {rounds} --data {data}"  # fmt: skip
        write_records(out, [head, *records])


def _run(case: Case, epochs: int, source: list[str]) -> dict[str, Any]:
    train = [sys.executable, "-m", "exec.train", "--json", "--net", NET, "--batch", str(BATCH), "--lr", str(RATE),
             "--epochs", str(epochs), *source, *case.arguments()]  # fmt: skip
    if case.ranks > 1 and case.transport == "mpi":
        launcher = os.path.join(os.path.dirname(sys.executable), "mpiexec")
        train = [launcher, "-n", str(case.ranks), *train]
    elif case.ranks > 1 or case.transport == "threads":
        train += ["--ranks", str(case.ranks)]
    done = subprocess.run(train, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"the trainer failed: {case.name} on {case.ranks}\n{done.stderr.strip()}")
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def _record(machine: Machine, case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    times = [statistics.median(each["time_s"] for each in run["epochs"][1:]) for run in runs]
    accuracies = [run["epochs"][-1]["test_accuracy"] for run in runs]
    samples = runs[0]["train_samples"]
    record = {
        "kind": "scheme",
        "scheme": case.name,
        "ranks": case.ranks,
        "transport": case.transport,
        "strategy": str(case.options.strategy),
        "average_every": case.options.average_every,
        "servers": case.options.servers,
        "oversubscribed": runs[0]["oversubscribed"],
        "epoch_time_s": statistics.median(times),
        "epoch_time_low_s": min(times),
        "epoch_time_high_s": max(times),
        "epoch_sent_bytes": runs[0]["sent_bytes_per_epoch"],
        "accuracy": statistics.median(accuracies),
        "accuracy_low": min(accuracies),
        "accuracy_high": max(accuracies),
        "staleness": runs[-1]["staleness"],
    }
    if case.transport == "threads" and case.ranks > 1:
        return record  # threads share the interpreter's lock, which no Machine knows of
    solved, simulated = (_forecast(machine, case, samples, engine) for engine in READERS)
    told = simulated if solved.upper_s else solved
    return record | {
        "forecast_s": told.epoch_time_s(samples),
        "simulated_s": simulated.epoch_time_s(samples),
        "solved_s": solved.epoch_time_s(samples),
        "solved_upper_s": solved.upper_s * samples / BATCH if solved.upper_s else None,
        "error": told.epoch_time_s(samples) / record["epoch_time_s"] - 1.0,
    }


def _forecast(machine: Machine, case: Case, samples: int, engine: Engine) -> Forecast:
    mesh = mesh_of(case.options.strategy, case.ranks)
    return forecast(machine, Workload(parse_net(NET), BATCH), mesh, case.options,
                    ranks_per_node=case.ranks, engine=engine, epoch_samples=samples)  # fmt: skip


def _print(records: list[dict[str, Any]]) -> None:
    out = console(150)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ranks", "scheme", "epoch ms", "(runs)", "MB an epoch", "accuracy", "forecast ms", "error", ""):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("scheme", "") else "right", no_wrap=True)  # fmt: skip
    for each in records:
        forecast_ms = f"{each['forecast_s'] * 1e3:.0f}" if "forecast_s" in each else ""
        error = f"{each['error']:+.0%}" if "error" in each else ""
        table.add_row(
            str(each["ranks"]), each["scheme"], f"{each['epoch_time_s'] * 1e3:.0f}",
            f"{each['epoch_time_low_s'] * 1e3:.0f}-{each['epoch_time_high_s'] * 1e3:.0f}",
            f"{each['epoch_sent_bytes'] / 1e6:.3g}", f"{each['accuracy']:.2%}", forecast_ms, error,
            "oversubscribed" * each["oversubscribed"],
        )  # fmt: skip
    out.print(table)
    for label, is_over in (("on cores of their own", False), ("oversubscribed", True)):
        errors = sorted(abs(each["error"]) for each in records if "error" in each and each["oversubscribed"] is is_over)  # fmt: skip
        if errors:
            out.print(f"forecast error {label}: median {statistics.median(errors):.1%}, {errors[0]:.1%} to {errors[-1]:.1%} over {len(errors)} schemes")  # fmt: skip


if __name__ == "__main__":
    run_app(app)
