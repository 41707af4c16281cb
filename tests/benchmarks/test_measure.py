"""What is measured anew goes on where it was stopped, and a part that fails leaves no file."""

import sys
from pathlib import Path

import pytest
from measure import MEASURED, Part, _run, parts, read_summary, to_do
from measure import measure as measure_all
from records import write_records

from exec.errors import UsageError

pytest.importorskip("mpi4py", reason="needs the mpi extra")


def part(code: str, printed: Path | None = None) -> Part:
    return Part("tried", 1.0, ((sys.executable, "-c", code),), printed)


@pytest.mark.parametrize(
    ("ended", "commit", "left"),
    [("well", "now", ["b"]), ("well", "before", ["a", "b"]), ("status 1", "now", ["a", "b"])],
)
def test_only_what_went_well_at_this_commit_is_not_done_again(ended: str, commit: str, left: list[str]) -> None:  # fmt: skip
    before = {"a": {"part": "a", "ended": ended, "commit": commit}}
    assert to_do(["a", "b"], before, "now") == left


def test_when_all_has_gone_well_all_is_done_again() -> None:
    before = {"a": {"part": "a", "ended": "well", "commit": "now"}}
    assert to_do(["a"], before, "now") == ["a"]


def test_what_a_part_prints_is_its_file_only_if_it_went_well(tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    failed = _run(part("print(1); raise SystemExit(3)", printed), tmp_path, 60.0)
    assert (failed["ended"], printed.exists()) == ("status 3", False)
    assert _run(part("print(2)", printed), tmp_path, 60.0)["ended"] == "well"
    assert printed.read_text("utf-8") == "2\n"


def test_a_part_that_takes_too_long_is_ended_and_its_log_says_what_it_was(tmp_path: Path) -> None:
    found = _run(part("import threading; threading.Event().wait()"), tmp_path, 0.5)
    assert found["ended"] == "out of time"
    assert "threading" in (tmp_path / "tried.log").read_text("utf-8")


def test_the_summary_is_what_was_written(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == []
    write_records(tmp_path / "parts.jsonl", [{"kind": "provenance"}, {"kind": "part", "part": "a"}])
    assert read_summary(tmp_path) == [{"kind": "part", "part": "a"}]


@pytest.mark.parametrize("is_quick", [False, True])
def test_each_part_writes_files_of_its_own_into_the_folder(tmp_path: Path, is_quick: bool) -> None:
    written: list[str] = []
    for each in parts(tmp_path, tmp_path / "work", None, is_quick=is_quick):
        outs = [command[command.index("--out") + 1] for command in each.commands if "--out" in command]  # fmt: skip
        written += [path for path in outs if "work" not in path] + [str(each.printed)] * bool(each.printed)  # fmt: skip
        assert written, each.name
    assert len(written) == len(set(written))
    assert all(Path(path).parent == tmp_path for path in written)


def test_tiny_sizes_are_not_for_the_report() -> None:
    with pytest.raises(UsageError, match="out must be another folder"):
        measure_all(out=MEASURED, quick=True)


def test_an_unknown_part_is_told_before_anything_is_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'trainer'"):
        measure_all(out=tmp_path, parts_=("trainr",), work=tmp_path)
