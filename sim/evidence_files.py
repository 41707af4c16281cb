"""Evidence from files of measurements: each record forecast anew by a Machine that has not seen it.

What a file says it measured is forecast as the program forecasts today, not as it did when the file
was written.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calibration.importers.cells import text_of
from calibration.machine import Machine
from exec.errors import MachineError
from sim.evidence import Evidence, Judged
from sim.evidence_published import judge_published
from sim.evidence_rig import campaign_machine, judge_case
from sim.evidence_runs import (
    judge_check,
    judge_scaling,
    judge_scheme,
    judge_slow,
    judge_trainer,
    judge_training,
)

Record = dict[str, Any]


def is_records(path: Path) -> bool:
    """Say whether ``path`` is JSON lines of this project, by its name or by its first line.

    Raises:
        MachineError: it cannot be read.
    """
    if path.suffix == ".jsonl":
        return True
    try:
        first = json.loads(text_of(path).split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(first, dict) and ("kind" in first or "step_time_s" in first)


def read_records(path: Path) -> tuple[Record, list[Record]]:
    """Return the provenance of a file of measurements, and its records.

    What ``exec.train --json`` printed is a file of one record of kind training.

    Raises:
        MachineError: it is not JSON lines that begin with a provenance.
    """
    lines = text_of(path).splitlines()
    records = [_read_record(path, number, line) for number, line in enumerate(lines, 1)]
    if len(records) == 1 and "step_time_s" in records[0]:
        return records[0].get("provenance", {}), [{"kind": "training"} | records[0]]
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


@dataclass(frozen=True, slots=True)
class Reader:
    """How a kind of record is judged, and what was fitted to judge it.

    ``judge`` gets the provenance and the record as one, and returns None for what nothing forecasts.
    Where records need no Machine they bring their forecasts with them, as shares of what was measured.
    ``machine_of`` is the Machine that a file's folder has for a record, where it has its own.
    """

    judge: Callable[[Record, Machine], Judged | None]
    split: str
    needs_machine: bool = True
    machine_of: Callable[[Path, Record], Machine] | None = None


def evidence_of(path: Path, machine: Machine | None) -> list[Evidence]:
    """Return the evidence in ``path``; ``machine`` forecasts where the file has none of its own.

    What ran on more ranks than there were cores stands apart.

    Raises:
        MachineError: nothing in it can be judged, or there is no Machine to judge by.
    """
    head, records = read_records(path)
    own = [each for each in records if each.get("kind") == "machine"]
    if own:
        try:
            machine = Machine.model_validate(own[0]["machine"])
        except (ValidationError, KeyError) as error:
            raise MachineError(f"{path} has a Machine that cannot be read: {error}") from error
    found: list[Evidence] = []
    for kind, reader in READERS.items():
        chosen = [(number, each) for number, each in enumerate(records, 2) if each.get("kind") == kind]  # fmt: skip
        if not chosen:
            continue
        if machine is None and reader.needs_machine and reader.machine_of is None:
            raise MachineError(f"{path} needs a Machine to forecast its records; give one with --machine")  # fmt: skip
        found += _judged(path, head, chosen, reader, machine or NO_MACHINE)
    if not found:
        kinds = sorted({str(each.get("kind")) for each in records})
        why = "".join(
            dict.fromkeys(f"; {NOT_JUDGED[each]}" for each in kinds if each in NOT_JUDGED)
        )
        raise MachineError(f"{path} must have records of kind {', '.join(READERS)}, got {', '.join(kinds) or 'none'}{why}")  # fmt: skip
    return found


def why_not_judged(path: Path) -> str | None:
    """Return why records of the kinds in ``path`` are not judged; None if some are, or nobody knows."""
    kinds = {str(each.get("kind")) for each in read_records(path)[1]}
    known = [NOT_JUDGED[each] for each in sorted(kinds) if each in NOT_JUDGED]
    return known[0] if known and not kinds & READERS.keys() else None


def _judged(
    path: Path, head: Record, chosen: Sequence[tuple[int, Record]], reader: Reader, machine: Machine
) -> Iterator[Evidence]:  # fmt: skip
    """Yield the evidence of one kind of record, by source, and what was oversubscribed last.

    The source is the file unless the records name another.
    """
    cases: dict[tuple[bool, str, str], list[Judged]] = {}
    for number, each in chosen:
        try:
            own_machine = (
                machine if reader.machine_of is None else reader.machine_of(path.parent, each)
            )
            case = reader.judge(head | each, own_machine)
        except (KeyError, TypeError, ValueError) as error:
            raise MachineError(f"{path} line {number} must be a record of kind {each['kind']}, got one with {type(error).__name__}: {error}") from error  # fmt: skip
        if case is not None:
            is_over = bool(each.get("oversubscribed"))
            name = f"{path.parent.name}: {each['variant']}" if "variant" in each else path.name
            source = str(each.get("source", name)) + " (oversubscribed)" * is_over
            split = str(each.get("split", reader.split.format(machine=machine.name)))
            cases.setdefault((is_over, source, split), []).append(case)
    for (is_over, source, split), own in sorted(cases.items(), key=lambda each: each[0][0]):
        is_relative = not reader.needs_machine
        yield Evidence(source, split, tuple(own), is_over, is_relative)


NO_MACHINE = Machine(format="stepcast-machine-1", name="none", description="", provenance={})
_ONE_RANK = "{machine} was fitted to a ladder of single-rank steps and to messages of two ranks; none of these networks is on the ladder"  # fmt: skip
_TWO_HOSTS = "messages were measured between two hosts; compute is padded to known times; of the rig only what differs was told: slow ranks and links, uplinks, noise"

READERS: dict[str, Reader] = {
    "check": Reader(judge_check, _ONE_RANK),
    "trainer": Reader(judge_trainer, _ONE_RANK),
    "mnist": Reader(judge_training, _ONE_RANK),
    "training": Reader(judge_training, _ONE_RANK),
    "scheme": Reader(judge_scheme, f"{_ONE_RANK}, nor was any of these schemes run for it; threads are left out, for no Machine knows of the interpreter's lock"),
    "slow": Reader(judge_slow, f"{_ONE_RANK}, nor was any rank slow; only the factor was told"),
    "scaling": Reader(judge_scaling, "{machine} was calibrated on one and two ranks before any case was run"),
    "case": Reader(judge_case, _TWO_HOSTS, machine_of=campaign_machine),
    "held out": Reader(judge_published, "in the record", needs_machine=False),
}  # fmt: skip
"""What each kind of record is judged by; a new kind of measurement is a line here."""

_ALLOCATED = "what a plan allocates is counted by the code that allocates it, to the byte and without an interval, so it says nothing of forecasts"
_KILLED = "nothing tells how long each part would have taken unkilled"
_OWN_SPEED = "it sets the speed of programs against each other; no forecast is of it"
_FITTED = "samples are what a Machine is fitted to"

NOT_JUDGED = {
    "memory": _ALLOCATED, "plan memory": _ALLOCATED, "kill": _KILLED, "kernel": _FITTED, "message": _FITTED,
    **dict.fromkeys(("two_ranks", "collective", "ring", "timeouts", "large_world", "events", "sweep", "startup"), _OWN_SPEED),
}  # fmt: skip
"""Why records of other kinds are not judged."""
