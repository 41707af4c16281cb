"""Evidence from files of measurements: each record forecast anew by a Machine that has not seen it.

What a file says it measured is forecast as the program forecasts today, not as it did when the file
was written.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calibration.machine import Machine
from exec.errors import MachineError
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.stages import parse_stages
from exec.plan.strategy import Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.evidence import Evidence, Judged
from sim.forecast import Engine, forecast

Record = dict[str, Any]


def read_records(path: Path) -> tuple[Record, list[Record]]:
    """Return the provenance of a file of measurements, and its records.

    Raises:
        MachineError: it is not JSON lines that begin with a provenance.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"{path} cannot be read: {error}") from error
    records = [_read_record(path, number, line) for number, line in enumerate(lines, 1)]
    if not records or records[0].get("kind") != "provenance":
        raise MachineError(f"{path} must begin with a record of kind provenance")
    return records[0], records[1:]


def _read_record(path: Path, number: int, line: str) -> Record:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise MachineError(f"{path} line {number} must be JSON: {error}") from error
    if not isinstance(found, dict):
        raise MachineError(f"{path} line {number} must be a JSON object, got {line[:40]!r}")
    return found


def evidence_of(path: Path, machine: Machine | None) -> list[Evidence]:
    """Return the evidence in ``path``; ``machine`` forecasts where the file has none of its own.

    Raises:
        MachineError: nothing in it can be judged, or there is no Machine to judge by.
    """
    _, records = read_records(path)
    own = [each for each in records if each.get("kind") == "machine"]
    if own:
        try:
            machine = Machine.model_validate(own[0]["machine"])
        except (ValidationError, KeyError) as error:
            raise MachineError(f"{path} has a Machine that cannot be read: {error}") from error
    found = []
    for kind, (judge, split) in READERS.items():
        chosen = [each for each in records if each.get("kind") == kind]
        if not chosen:
            continue
        if machine is None:
            raise MachineError(
                f"{path} needs a Machine to forecast its records; give one with --machine"
            )
        try:
            cases = [judge(each, machine) for each in chosen if not each.get("oversubscribed")]
        except KeyError as error:
            raise MachineError(f"{path} has a record of kind {kind} without {error}") from error
        if cases:
            found.append(Evidence(path.name, split.format(machine=machine.name), tuple(cases)))
    if not found:
        kinds = ", ".join(sorted({str(each.get("kind")) for each in records})) or "none"
        raise MachineError(f"{path} must have records of kind {', '.join(READERS)}, got {kinds}")
    return found


def _judge_plan(
    record: Record, machine: Machine, mesh: Mesh, times_s: Sequence[float], engine: Engine = Engine.SOLVE
) -> Judged:  # fmt: skip
    """Return the case of a plan on one node; ``times_s`` are its measured time, the least and the most."""
    workload = Workload(parse_net(record["net"]), record["batch"])
    options = PlanOptions(
        record["microbatches"], algorithm=Algorithm(record.get("algorithm", Algorithm.LIBRARY)),
        overlap=record.get("overlap", False), strategy=Strategy(record["strategy"]),
        stages=parse_stages(record["stages"] or None, workload.network),
        sync_batchnorm=record.get("sync_batchnorm", False),
    )  # fmt: skip
    answer = forecast(
        machine, workload, mesh, options, ranks_per_node=mesh.world_size, engine=engine
    )
    measured_s, low_s, high_s = times_s
    group = f"{record['net']}, batch {record['batch']}, {mesh.world_size} ranks"
    label = f"{record['net']} {record['batch']} {record['strategy']} {mesh}"
    return Judged(
        label, group, measured_s, answer.step_time_s, *answer.interval_s,
        (high_s - low_s) / measured_s,
    )  # fmt: skip


def judge_check(record: Record, machine: Machine, engine: Engine = Engine.SOLVE) -> Judged:
    """Return the case of a record of ``sim.check``."""
    mesh = mesh_of(Strategy(record["strategy"]), record["ranks"])
    times_s = [record[name] for name in ("measured_s", "measured_low_s", "measured_high_s")]
    return _judge_plan(record, machine, mesh, times_s, engine)


def judge_scaling(record: Record, machine: Machine) -> Judged:
    """Return the case of a record of strong scaling, whose mesh is spelt out."""
    mesh = Mesh(*map(int, record["mesh"].split("x")))
    times_s = [record[name] for name in ("measured_s", "measured_low_s", "measured_high_s")]
    return _judge_plan(record | {"stages": ",".join(record["stages"][1:])}, machine, mesh, times_s)


READERS: dict[str, tuple[Callable[[Record, Machine], Judged], str]] = {
    "check": (
        judge_check,
        "{machine} was fitted to a ladder of single-rank steps and to messages of two ranks; none of "
        "these networks is on the ladder",
    ),
    "scaling": (
        judge_scaling,
        "{machine} was calibrated on one and two ranks before any case was run",
    ),
}
