"""What others measured and do not let us pass on: our forecast as a share of their time, and no more."""

from typing import Any

from calibration.machine import Machine
from sim.evidence import Judged

Record = dict[str, Any]

KIND = "held out"


def published_record(source: str, split: str, system: str, case: Judged, **told: object) -> Record:
    """Return the record of ``case`` without its times; ``told`` is what else it says of itself."""
    return {
        "kind": KIND, "source": source, "split": split, "system": system, **told,
        "extrapolation": case.extrapolation, "ratio": case.forecast_s / case.measured_s,
        "low": case.low_s / case.measured_s, "high": case.high_s / case.measured_s,
    }  # fmt: skip


def size_class(nbytes: int) -> str:
    """Return the decade that ``nbytes`` is in.

    >>> size_class(400_000), size_class(0)
    ('1e5 to 1e6 B', 'empty')
    """
    digits = len(str(nbytes))
    return f"1e{digits - 1} to 1e{digits} B" if nbytes else "empty"


def judge_published(record: Record, _machine: Machine) -> Judged:
    """Return the case of a record of ``benchmarks/held_out.py``; its time is 1, that which was measured."""
    label = f"{record['system']}, {record['what']}, {record['ranks']} ranks, {record['size_class']}"
    return Judged(
        label, label, 1.0, float(record["ratio"]), float(record["low"]), float(record["high"]),
        extrapolation=float(record["extrapolation"]),
    )  # fmt: skip
