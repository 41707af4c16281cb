"""The evidence: every committed file of measurements through ``sim.validate``, and its central table."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from calibration.machine import Machine, read_machine
from paper.results import MEASUREMENTS, Record
from sim.evidence import Evidence, counted, verdict_of
from sim.evidence_files import evidence_of, is_records, why_not_judged

_MACHINE = "machine-"
_NAMED = {"cluster": "cluster", "deepbench": "DeepBench"}
"""Sources of which the README says what all their files come to."""


def committed_evidence(folder: Path = MEASUREMENTS) -> tuple[list[Evidence], dict[str, str]]:
    """Return the evidence of every file in ``folder``, and why others hold none.

    The Machine of a file is its own, or the one that is named as it ends: machine-X.json for check-X.jsonl.
    """
    machines = {path.stem.removeprefix(_MACHINE): path for path in folder.glob(f"{_MACHINE}*.json")}
    found: list[Evidence] = []
    silent: dict[str, str] = {}
    for path in sorted([*folder.glob("*.json*"), *folder.glob("*/runs.jsonl")]):
        if path.name.startswith(_MACHINE) or not is_records(path):
            continue
        if (reason := why_not_judged(path)) is not None:
            silent[path.name] = reason
        else:
            found += evidence_of(path, _machine_of(path, machines))
    return sorted(found, key=lambda each: (each.is_relative, each.is_apart)), silent


def _machine_of(path: Path, machines: dict[str, Path]) -> Machine | None:
    named = [own for name, own in machines.items() if path.stem.endswith(name)]
    return read_machine(named[0]) if named else None


def evidence_numbers(evidence: Sequence[Evidence]) -> Record:
    """Return the rows of the central table, and what all that do not stand apart come to."""
    together = counted(evidence)
    others = [case for each in evidence if each.is_relative for case in each.cases]
    own = [case for each in evidence if not each.is_relative and not each.is_apart for case in each.cases]  # fmt: skip
    return {
        "rows": [
            {"source": _short(each.source), "split": each.split, "is_apart": each.is_apart,
             "is_relative": each.is_relative, **asdict(verdict_of(each.cases))}
            for each in evidence
        ],
        "all": asdict(verdict_of(together)), "own": asdict(verdict_of(own)),
        "others": asdict(verdict_of(others)),
        **{name: asdict(verdict_of([case for each in evidence if each.source.startswith(start) for case in each.cases]))
           for name, start in _NAMED.items()},
        "splits": list(dict.fromkeys(each.split for each in evidence)),
    }  # fmt: skip


def _short(source: str) -> str:
    """Return a source without the ends of its file's name.

    >>> _short("schemes-2core-epyc.jsonl (oversubscribed)")
    'schemes-2core-epyc (oversubscribed)'
    """
    return source.replace(".jsonl", "").replace(".json", "")
