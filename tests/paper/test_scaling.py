"""The figure of strong scaling: drawn from the runs on most ranks, once there are some on more than two."""

import json
from pathlib import Path
from typing import Any

import pytest

from paper.scaling import scaling_numbers

Record = dict[str, Any]


def row(ranks: int, *, strategy: str = "data", error: float = 0.1) -> Record:
    """Return a run on ``ranks`` ranks, of which one was forecast to be faster by ``error``."""
    speedup = {"median": 0.8 * ranks, "low": 0.7 * ranks, "high": 0.9 * ranks}
    return {
        "kind": "scaling", "net": "8-4-4", "batch": 64, "strategy": strategy, "ranks": ranks, "was_seen": ranks <= 2,
        "measured_s": 1 / ranks, "error": error, "is_inside": error < 0.2, "speedup": speedup, "forecast_speedup": speedup,
    }  # fmt: skip


def write(path: Path, *rows: Record) -> None:
    records = [{"kind": "provenance", "file": path.name}, {"kind": "machine"}, *rows]
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")


def test_without_runs_there_are_no_rows_and_more_are_to_come(tmp_path: Path) -> None:
    found = scaling_numbers(tmp_path)
    assert (found["rows"], found["is_pending"], found["seen"]) == ([], True, None)


def test_two_ranks_are_told_and_more_are_to_come(tmp_path: Path) -> None:
    write(tmp_path / "scaling-small.jsonl", row(1, strategy="serial"), row(2, error=-0.3))
    found = scaling_numbers(tmp_path)
    assert found["is_pending"]
    assert found["unseen"] is None
    assert found["seen"] == {"count": 2, "median": 0.2, "least": 0.1, "most": 0.3, "inside": 2}


def test_the_runs_on_most_ranks_are_taken_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the paper extra")
    from paper.scaling_figure import scaling_figure  # noqa: PLC0415  # matplotlib

    write(tmp_path / "scaling-large.jsonl", row(1, strategy="serial"), row(2), row(4, error=-0.5), row(8, strategy="hybrid"))  # fmt: skip
    write(tmp_path / "scaling-small.jsonl", row(1, strategy="serial"), row(2))
    found = scaling_numbers(tmp_path)
    assert (found["most_ranks"], found["is_pending"]) == (8, False)
    assert found["provenance"]["file"] == "scaling-large.jsonl"
    assert found["unseen"]["count"] == 2
    path = tmp_path / "scaling.svg"
    scaling_figure(path, found["rows"])
    assert "<svg" in path.read_text("utf-8")
