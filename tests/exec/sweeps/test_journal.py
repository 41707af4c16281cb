"""The file of a sweep: nothing finished is lost, nothing torn is kept, nothing foreign touched."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import SweepError
from exec.sweeps.cells import key_of
from exec.sweeps.journal import Header, Writer, open_journal, read_journal

HEADER = Header(transport="threads", axes=("ranks", "batch"), fixed={"epochs": 1}, cpu="Z80")
RECORD = {
    "ranks": 1, "net": "128-8-26", "data": "drawn", "oversubscribed": False, "more": [1, {"ü": None}],
    "epochs": [{"epoch": 1, "loss": 3.2, "test_accuracy": 0.5, "time_s": 0.25}],
}  # fmt: skip


def line(batch: int, seed: int = 0) -> dict[str, Any]:
    """Return the line of a cell; odd batches are refused."""
    outcome = {"refused": "batch must be even"} if batch % 2 else {"record": RECORD}
    return {"kind": "cell", "cell": {"ranks": 1, "batch": batch, "seed": seed}} | outcome


def write(path: Path, count: int) -> None:
    """Write a sweep of ``count`` cells."""
    with open_journal(path, HEADER) as writer:
        for batch in range(count):
            writer.append(line(batch))


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    write(path, 3)
    found = read_journal(path)
    assert found.header == HEADER
    assert found.keys == {key_of(line(batch)["cell"]) for batch in range(3)}
    assert [each.refused for each in found.lines] == [None, "batch must be even", None]
    assert [json.loads(text) for text in found.texts[1:]] == [line(batch) for batch in range(3)]


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.data())
def test_file_cut_anywhere_goes_on_as_if_its_torn_line_had_never_been(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "sweep.jsonl"
    write(path, 3)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:at])
    num_whole = max(whole[:at].count(b"\n") - 1, 0)
    with open_journal(path, HEADER) as writer:
        assert writer.done == {key_of(line(batch)["cell"]) for batch in range(num_whole)}
        for batch in range(num_whole, 3):
            writer.append(line(batch))
    assert path.read_bytes() == whole


def test_last_line_of_zeros_is_torn_too(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    write(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 20 + b"\n")
    assert len(read_journal(path).lines) == 2
    write_nothing(path)
    assert path.read_bytes() == whole


def write_nothing(path: Path, header: Header = HEADER) -> None:
    """Open ``path`` for writing, and write nothing."""
    with open_journal(path, header):
        pass


FOREIGN = [b"{}", b'{"a": 1}\n', b"hello", b"hello\nworld\n", b"\n", b"\xff\xfe", b'{"kind": "provenance", "cpu": "Z80"}\n']  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN)
def test_file_that_is_no_sweep_s_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(SweepError, match="whose first line is no sweep's provenance"):
        write_nothing(path)
    assert path.read_bytes() == content


CHANGES = {
    "fixed": ({"fixed": {"epochs": 2}}, "whose fixed are epochs 1, not epochs 2"),
    "none": ({"fixed": {}}, "whose fixed are epochs 1, not nothing"),
    "axes": ({"axes": ("ranks", "dp")}, "whose axes are batch, ranks, not dp, ranks"),
    "transport": ({"transport": "mpi"}, "whose transport is threads, not mpi"),
    "cpu": ({"cpu": "6502"}, "whose cpu is Z80, not 6502"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_file_of_another_sweep_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sweep.jsonl"
    write(path, 2)
    before = path.read_bytes() + b"torn"
    path.write_bytes(before)
    change, message = CHANGES[name]
    with pytest.raises(SweepError, match=message):
        write_nothing(path, HEADER.model_copy(update=change))
    assert path.read_bytes() == before


def test_same_sweep_at_another_time_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    write(path, 2)
    later = Header.model_validate(HEADER.model_dump() | {"axes": ("batch", "ranks"), "date": "later"})  # fmt: skip
    with open_journal(path, later) as writer:
        assert len(writer.done) == 2


def test_file_is_one_sweep_s_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    with (
        open_journal(path, HEADER),
        pytest.raises(SweepError, match="which another is writing"),
    ):
        write_nothing(path)
    write_nothing(path)


BROKEN = {
    "text": ("{", "line 3 must be a cell"),
    "both": (json.dumps(line(0) | {"refused": "no"}), "line 3 must be a cell: it must have a record or a refusal"),
    "no seed": (json.dumps(line(0) | {"cell": {"ranks": 1}}), "line 3 must be a cell: its ranks and seed must be whole"),
    "no epochs": (json.dumps(line(0) | {"record": RECORD | {"epochs": []}}), "line 3 must be a cell"),
    "header": (HEADER.model_dump_json(), "line 3 must be a cell"),
    "twice": (json.dumps(line(0)), "line 3 must not repeat a cell"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_line_in_the_middle_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sweep.jsonl"
    text, message = BROKEN[name]
    lines = [HEADER.model_dump_json(), json.dumps(line(0)), text, json.dumps(line(2))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(SweepError, match=message):
        read_journal(path)


def test_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "sweep.jsonl"):
        with pytest.raises(SweepError, match=r"^out .* cannot be written: "):
            write_nothing(path)
    with pytest.raises(SweepError, match=r"^out .* cannot be read: "):
        read_journal(tmp_path / "none")


def test_full_disk_is_said() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(
            SweepError, match=r"^out full cannot be written: No space left on device$"
        ):
            Writer(fd, Path("full"), frozenset()).append(line(0))
    finally:
        os.close(fd)
