"""What others measured and do not let us pass on: our forecast as a share of their time, and no more."""

from typing import Any

from calibration.machine import Machine
from sim.evidence import Evidence, Judged

Record = dict[str, Any]


def published_records(source: str, system: str, evidence: Evidence) -> list[Record]:
    """Return the cases of ``evidence`` without their times, and their sizes by decade only."""
    return [
        {
            "kind": "held out", "source": source, "split": evidence.split, "system": system,
            "what": case.what, "ranks": case.ranks, "extrapolation": case.extrapolation,
            "size_class": None if case.nbytes is None else size_class(case.nbytes),
            "ratio": _rounded(case.forecast_s / case.measured_s),
            "low": _rounded(case.low_s / case.measured_s), "high": _rounded(case.high_s / case.measured_s),
        }
        for case in evidence.cases
    ]  # fmt: skip


def size_class(nbytes: int) -> str:
    """Return the decade that ``nbytes`` is in.

    >>> size_class(400_000), size_class(0)
    ('1e5 to 1e6 B', 'empty')
    """
    digits = len(str(nbytes))
    return f"1e{digits - 1} to 1e{digits} B" if nbytes else "empty"


def judge_published(record: Record, _machine: Machine) -> Judged:
    """Return the case of a record of ``benchmarks/held_out.py``; its time is 1, that which was measured."""
    size = "" if record["size_class"] is None else f", {record['size_class']}"
    label = f"{record['system']}: {record['what']} on {record['ranks']} ranks{size}"
    return Judged(
        label, "", 1.0, float(record["ratio"]), float(record["low"]), float(record["high"]),
        extrapolation=float(record["extrapolation"]), what=record["what"], ranks=record["ranks"],
    )  # fmt: skip


def _rounded(share: float) -> float:
    return float(f"{share:.6g}")
