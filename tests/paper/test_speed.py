"""What the report says of speed is what the records say; what is not there yet is told to be."""

import json
from pathlib import Path
from typing import Any

import pytest

from exec.errors import UsageError
from paper.readme import written
from paper.results import MEASUREMENTS
from paper.speed import GOALS, HOST, TABLES, speed_numbers

Record = dict[str, Any]


def write(folder: Path, table: str, *rows: Record) -> None:
    records = [{"kind": "provenance", "file": table}, *rows]
    path = folder / f"{table}-{HOST}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")


def spread(median: float) -> Record:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def goal(found: Record, what: str) -> Record:
    return next(each for each in found["goals"] if each["what"].startswith(what))


def trainer(speed: float, over: float) -> Record:
    return {"kind": "trainer", "net": "128-50-26", "batch": 32, "speed_over_pytorch": spread(speed), "time_over_products": spread(over)}  # fmt: skip


def world(ranks: int, seconds: float, nbytes: int) -> Record:
    return {"kind": "large_world", "case": "ResNet-18, data, ring", "ranks": ranks, "seconds": spread(seconds),
            "floor_seconds": spread(0.02), "peak_nbytes": nbytes}  # fmt: skip


def test_without_records_every_goal_is_open(tmp_path: Path) -> None:
    found = speed_numbers(tmp_path)
    assert tuple(found["pending"]) == TABLES
    assert len(found["goals"]) == len(GOALS)
    assert all(each["measured"] is None and each["is_met"] is None for each in found["goals"])


@pytest.mark.parametrize(("speed", "is_met"), [(8.0, True), (7.99, False)])
def test_a_least_is_met_from_its_bound_on(tmp_path: Path, speed: float, is_met: bool) -> None:
    write(tmp_path, "trainer", trainer(speed, 2.0))
    found = speed_numbers(tmp_path)
    told = goal(found, "speed over PyTorch eager: 128-50-26, batch 32")
    assert (told["measured"], told["is_met"]) == (spread(speed), is_met)
    assert told["limit"] == "products alone: 16 times"  # no trainer on this BLAS can do more
    assert "trainer" not in found["pending"]
    assert goal(found, "speed over PyTorch eager: 128-50-26, batch 256")["measured"] is None


@pytest.mark.parametrize(("seconds", "is_met"), [(0.1, True), (0.101, False)])
def test_a_most_is_met_up_to_its_bound(tmp_path: Path, seconds: float, is_met: bool) -> None:
    write(tmp_path, "simulator", world(1024, seconds, 10**6), world(4096, 0.4, 2 * 10**9))
    found = speed_numbers(tmp_path)
    told = goal(found, "a step of ResNet-18 on 1,024 ranks")
    assert (told["measured"], told["is_met"], told["limit"]) == (spread(seconds), is_met, "NumPy alone: 0.02 s")  # fmt: skip
    assert goal(found, "the same on 4,096 ranks")["measured"] == spread(0.4)
    most = goal(found, "the most memory")
    assert (most["measured"]["median"], most["is_met"]) == (2000.0, False)


def test_every_goal_finds_its_row_in_the_committed_records() -> None:
    there = [name for name in TABLES if (MEASUREMENTS / f"{name}-{HOST}.jsonl").is_file()]
    for each in speed_numbers()["goals"]:
        if each["table"] in there:
            assert each["measured"] is not None, each["what"]


def test_a_block_must_be_marked_once() -> None:
    block = "<!-- a: python -m paper -->\nold\n<!-- end of a -->\n"
    with pytest.raises(UsageError, match="got 0 times"):
        written("no marks\n", {"a": "new\n"})
    with pytest.raises(UsageError, match="got 2 times"):
        written(block * 2, {"a": "new\n"})


def test_the_growth_of_all_engines_and_peers_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the paper extra")
    from paper.speed_figure import growth_figure  # noqa: PLC0415  # matplotlib

    ring = [{"kind": "ring", "what": what, "ranks": ranks, "seconds": spread(1e-3 * ranks)} for what in ("solve", "events") for ranks in (16, 64)]  # fmt: skip
    peers = speed_numbers(tmp_path)["peers"]["rows"]
    growth_figure(tmp_path / "growth.svg", [*ring, world(64, 0.1, 1)], peers)
    drawn = (tmp_path / "growth.svg").read_text("utf-8")
    for label in ("ours: solve", "ours: events", "LogGOPSim (earlier)", "ResNet-18, data"):
        assert f"<!-- {label} -->" in drawn
    assert "<!-- ours: arrays -->" not in drawn
