"""Check forecasts against runs: ``python -m sim.check``.

Runs the trainer as its users do, on networks and strategies that the fit has not seen, forecasts
the same plans with both engines, and prints measured and forecast side by side.
"""

import json as json_format
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from calibration.find import find_machine
from calibration.ladder import bounds_for, ladder
from calibration.machine import Machine
from exec.cli import console, make_app, run_app
from exec.device.kind import DeviceKind
from exec.errors import UsageError
from exec.launch import find_mpiexec
from exec.plan.strategy import mesh_of
from exec.program.ops import Algorithm
from sim.balance import calibrated
from sim.check_cases import Case, NetKind, cases_of
from sim.costs import Costs
from sim.engine import READERS, Engine
from sim.forecast import forecast

app = make_app("python -m sim.check", "Run the trainer and its forecast side by side.")
Flag = Annotated[bool, Parameter(negative=())]

_LADDER = 160  # the longest ladder that calibration climbs
_SECONDS = 0.6  # how long each run should train
_SLOW_S = 0.02  # from which step time on a run has few steps: eight, of which five warm up
_MAX_ELEMENTS = 8_000_000


@app.default
def check(
    *,
    machine: str | None = None,
    ranks: int | None = None,
    repeats: int = 3,
    net_kind: NetKind = NetKind.ALL,
    device: DeviceKind = DeviceKind.CPU,
    out: Path | None = None,
    json: Flag = False,
) -> None:
    """Run the trainer and its forecast side by side.

    Parameters
    ----------
    machine
        The Machine that forecasts; to be fair it must be the one this runs on. Unless given, local,
        or of a device local-gpu.
    ranks
        Ranks of the parallel cases, on this one node: 2 unless given, or 1 on a device.
    repeats
        Runs of each case; the middle one counts.
    net_kind
        Check networks of dense layers (mlp), with convolutions (conv), or all.
    device
        What trains, and what the Machine must be of: cpu, gpu or emulated.
    out
        Write the results here as JSON lines, the provenance first.
    json
        Print the results as JSON lines instead of a table.
    """
    ranks = (2 if device is DeviceKind.CPU else 1) if ranks is None else ranks
    if ranks < 1 or repeats < 1:
        raise UsageError(f"ranks and repeats must be at least 1, got {ranks} and {repeats}")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UsageError(f"out must be a file in a folder that exists, got {out}")
    found = find_machine(machine or ("local" if device is DeviceKind.CPU else f"local-{device}"))
    if found.compute is not None and found.compute.device is not device:
        raise UsageError(f"machine must be of device {device}, got {found.name} of {found.compute.device}")  # fmt: skip
    seen = {
        (each.network, each.global_batch) for each in ladder(_LADDER, bounds=bounds_for(device))
    }
    cases = cases_of(net_kind, ranks, device)
    if known := [case for case, _ in cases if (case.workload.network, case.batch) in seen]:
        raise ValueError(f"cases must not be on the ladder that was fitted: {known}")
    records = []
    with console().status("running the trainer") as status:
        for number, (case, count) in enumerate(cases, 1):
            status.update(
                f"running {number} of {len(cases)}: {case.net}, {case.strategy} on {count}"
            )
            records.append(_check(found, case, count, repeats))
    command = " ".join(["python", "-m", "sim.check", *sys.argv[1:]])
    provenance = {"kind": "provenance", "machine": found.name, "command": command}
    provenance |= dict(records[0]["provenance"])
    chip = "cpu" if device is DeviceKind.CPU else "gpu"
    if provenance[chip] != found.provenance.get(chip):
        console().print(
            f"warning: {found.name} was measured on {found.provenance.get(chip, 'an unknown one')}, this is {provenance[chip]}"
        )
    for record in records:
        del record["provenance"]
    lines = "".join(
        json_format.dumps(each, allow_nan=False) + "\n" for each in [provenance, *records]
    )
    if out is not None:
        out.write_text(lines, encoding="utf-8")
    if json:
        print(lines, end="")
    else:
        _print(found, records)


def _check(machine: Machine, case: Case, ranks: int, repeats: int) -> dict[str, Any]:
    mesh = mesh_of(case.strategy, ranks)
    options = calibrated(Costs(machine, mesh, ranks), case.workload, case.options)
    answers = {
        engine: forecast(machine, case.workload, mesh, options, ranks_per_node=ranks, engine=engine)
        for engine in READERS
    }  # fmt: skip
    solved = answers[Engine.SOLVE]
    stages = ",".join(load.first_layer for load in solved.stages[1:])
    compute = machine.compute
    assert compute is not None
    chosen = [] if compute.device is DeviceKind.CPU else ["--device", compute.device.value]
    chosen += ["--tf32"] * compute.is_tf32
    runs = [_run(case, ranks, stages, solved.step_time_s, chosen) for _ in range(repeats)]
    times = sorted(run["step_time_s"] for run in runs)
    measured_s = statistics.median(times)
    return {
        "kind": "check",
        "net": case.net,
        "batch": case.batch,
        "strategy": case.strategy,
        "ranks": ranks,
        "device": machine.compute.device if machine.compute is not None else DeviceKind.CPU,
        "microbatches": case.microbatches,
        "algorithm": case.algorithm,
        "overlap": case.overlap,
        "sync_batchnorm": case.sync_batchnorm,
        "stages": stages or None,
        "oversubscribed": runs[0]["oversubscribed"],
        "measured_s": measured_s,
        "measured_low_s": times[0],
        "measured_high_s": times[-1],
        "solved_s": solved.step_time_s,
        "simulated_s": answers[Engine.SIMULATE].step_time_s,
        "solved_low_s": solved.interval_s[0],
        "solved_high_s": solved.interval_s[1],
        "error": solved.step_time_s / measured_s - 1.0,
        "memory_bytes": solved.memory_bytes,
        "allocated_bytes": max(runs[0]["memory"]["allocated_bytes"]),
        "peak_growth_bytes": max(run["memory"]["peak_growth_bytes"] for run in runs),
        "provenance": runs[0]["provenance"],
    }


def _run(
    case: Case, ranks: int, stages: str, expected_s: float, chosen: Sequence[str]
) -> dict[str, Any]:
    """Return the trainer's own record of a run of about as many steps as fit the time.

    ``chosen`` are options that say where.
    """
    least = 8 if expected_s > _SLOW_S else 30
    steps = min(4000, max(least, int(_SECONDS / expected_s)))
    num_train = case.batch * max(
        4, min(steps, _MAX_ELEMENTS // case.workload.network.num_features // case.batch)
    )
    epochs = max(1, round(steps * case.batch / num_train))
    command = [
        *_launcher(ranks), sys.executable, "-m", "exec.train", "--json", "--data", "noise", "--net", case.net,
        "--batch", str(case.batch), "--strategy", case.strategy, "--microbatches", str(case.microbatches),
        "--algorithm", case.algorithm, "--epochs", str(epochs), "--num-train", str(num_train),
        "--num-test", "16", *["--overlap"] * case.overlap, *["--sync-batchnorm"] * case.sync_batchnorm,
        *(["--stages", stages] if stages else []), *chosen,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise UsageError(f"the trainer failed: {' '.join(command)}\n{done.stderr.strip()}")
    record: dict[str, Any] = json_format.loads(done.stdout)
    return record


def _launcher(ranks: int) -> list[str]:
    if ranks == 1:
        return []
    launcher = find_mpiexec()
    if launcher is None:
        raise UsageError("mpiexec must be installed for more than 1 rank (the mpi extra has one), or use --ranks 1")  # fmt: skip
    return [launcher, "-n", str(ranks)]


def _print(machine: Machine, records: Sequence[dict[str, Any]]) -> None:
    out = console(170)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("net", "batch", "strategy", "ranks", "measured us", "(runs)", "solved us", "simulated us", "error", "in 90 %", "MiB", "(allocated)", "(grown)", ""):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("net", "strategy", "") else "right", no_wrap=True)  # fmt: skip
    for record in records:
        table.add_row(*_cells(record))
    out.print(table)
    for label, chosen in _groups(records):
        errors = sorted(abs(record["error"]) for record in chosen)
        inside = sum(_is_inside(record) for record in chosen)
        out.print(f"{label}: median error {statistics.median(errors):.1%}, {errors[0]:.1%} to {errors[-1]:.1%}; "
                  f"{inside} of {len(chosen)} inside their 90 % interval")  # fmt: skip
    out.print(
        "MiB: forecast and allocated on the rank that has most, and by how much the largest process grew"
    )
    compute = machine.compute.source if machine.compute else "nothing"
    links = "; ".join(f"{tier} link: {link.message.source}" for tier, link in machine.links.items())
    out.print(
        f"split: {machine.name} was fitted to a ladder of single-rank steps ({compute}) and to messages "
        f"({links or 'no links'}); none of these networks is on the ladder, and no parallel step was fitted"
    )  # fmt: skip


def _groups(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    real = [record for record in records if not record["oversubscribed"]]
    over = [record for record in records if record["oversubscribed"]]
    if real:
        yield f"{len(real)} runs on cores of their own", real
    if over:
        yield f"{len(over)} oversubscribed runs", over


def _is_inside(record: dict[str, Any]) -> bool:
    low, measured, high = (record[k] for k in ("solved_low_s", "measured_s", "solved_high_s"))  # fmt: skip
    return bool(low <= measured <= high)


def _cells(record: dict[str, Any]) -> Iterator[str]:
    def us(key: str) -> str:
        return f"{record[key] * 1e6:.1f}"

    details = [str(record["algorithm"])] if record["algorithm"] != Algorithm.LIBRARY else []
    details += [f"{record['microbatches']} microbatches"] if record["microbatches"] != 1 else []
    details += ["overlapped"] if record["overlap"] else []
    details += ["statistics shared"] if record["sync_batchnorm"] else []
    details += ["oversubscribed"] if record["oversubscribed"] else []
    yield from (str(record[key]) for key in ("net", "batch", "strategy", "ranks"))
    yield from (us("measured_s"), f"{us('measured_low_s')}-{us('measured_high_s')}")
    yield from (us("solved_s"), us("simulated_s"), f"{record['error']:+.1%}")
    yield "yes" if _is_inside(record) else "no"
    yield from (f"{record[key] / 2**20:.3g}" for key in ("memory_bytes", "allocated_bytes", "peak_growth_bytes"))  # fmt: skip
    yield ", ".join(details)


if __name__ == "__main__":
    run_app(app)
