"""One call that measures everything: a part that fails stops no other, and what is done stays done."""

import json
import tarfile
from pathlib import Path

import pytest

from benchmarks import measure_gpu
from benchmarks.gpu_cases import Group
from benchmarks.measure_gpu import PACKED, SUMMARY, Part
from exec.device.kind import DeviceKind
from exec.errors import UsageError

FAILS = Part("fails", ("-c", "print('went wrong'); raise SystemExit(3)"), 30)
ENDLESS = Part("endless", ("-c", "print('began', flush=True)\nwhile True: pass"), 0.5)
WORKS = Part("works", ("-c", "print('all well')"), 30)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be three parts: one that fails, one that never ends, one that works."""
    monkeypatch.setattr(measure_gpu, "parts", lambda *_, **__: [FAILS, ENDLESS, WORKS])


def measured(out: Path, *names: str) -> int:
    """Measure parts, and return the exit status."""
    try:
        measure_gpu.measure_gpu(out=out, parts=names, device=DeviceKind.EMULATED, work=out / "work")
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


def ends(out: Path) -> dict[str, str]:
    records = [json.loads(line) for line in (out / SUMMARY).read_text("utf-8").splitlines()]
    assert records[0]["kind"] == "provenance"
    return {each["part"]: each["ended"] for each in records[1:]}


@pytest.mark.usefixtures("three")
def test_a_part_that_fails_or_never_ends_stops_no_other(tmp_path: Path) -> None:
    assert measured(tmp_path) == 1
    assert ends(tmp_path) == {"fails": "status 3", "endless": "out of time", "works": "well"}
    with tarfile.open(tmp_path / PACKED) as packed:
        names = set(packed.getnames())
        log = packed.extractfile("fails.log")
        assert log is not None
        assert b"went wrong" in log.read()
    assert names == {"fails.log", "endless.log", "works.log", SUMMARY}


@pytest.mark.usefixtures("three")
def test_what_ended_well_is_done_again_only_by_name(tmp_path: Path) -> None:
    assert measured(tmp_path, "works") == 0
    (tmp_path / "work" / "works.log").write_text("kept", encoding="utf-8")
    assert measured(tmp_path) == 1
    assert (tmp_path / "work" / "works.log").read_text("utf-8") == "kept"
    assert set(ends(tmp_path)) == {"fails", "endless", "works"}
    assert measured(tmp_path, "works") == 0
    assert (tmp_path / "work" / "works.log").read_text("utf-8") == "all well\n"


@pytest.mark.usefixtures("three")
def test_a_part_that_does_not_fit_into_the_time_is_left_for_the_next_call(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):  # the least part needs 0.3 s, beside what packing is left
        measure_gpu.measure_gpu(out=tmp_path, device=DeviceKind.EMULATED, work=tmp_path / "work", limit_s=1)  # fmt: skip
    assert set(ends(tmp_path).values()) == {"not begun"}


@pytest.mark.usefixtures("three")
def test_a_part_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="parts must be one of fails, endless, works, got 'work'"):
        measured(tmp_path, "work")


def test_the_parts_measure_every_group_of_the_benchmark() -> None:
    found = measure_gpu.parts(DeviceKind.GPU, Path("folder"), is_quick=False)
    named = [word for part in found for before, word in zip(part.command, part.command[1:], strict=False) if before == "--groups"]  # fmt: skip
    assert sorted(named) == sorted(Group)
    assert len({part.name for part in found}) == len(found)
