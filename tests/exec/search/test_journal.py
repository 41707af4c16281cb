"""A journal holds every trial once, whatever a kill has left of it."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import DataError, UsageError
from exec.search.journal import Journal, parse_journal, read_journal
from exec.search.record import SessionStart
from tests.exec.search.spaces import result

HEAD = {"search": {"units": "10", "seed": 0}}
SESSION = SessionStart(session=0, ranks=1, num_groups=1, trials=9, date="today", oversubscribed=False)  # fmt: skip


def written(path: Path, num_trials: int) -> bytes:
    """Return the bytes of a journal with a session and ``num_trials`` trials."""
    with Journal(path, HEAD) as journal:
        journal.append(SESSION)
        for index in range(num_trials):
            journal.append(result(index))
    return path.read_bytes()


def test_journal_reads_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    written(path, 3)
    contents = read_journal(path)
    assert contents.search == HEAD["search"]
    assert contents.sessions == [SESSION]
    assert contents.trials == {index: result(index) for index in range(3)}
    assert contents.nbytes == path.stat().st_size


@settings(max_examples=30)  # each waits for the disk
@given(data=st.data())
def test_cut_anywhere_it_holds_the_whole_lines_before_and_can_go_on(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "trials.jsonl"
    whole = written(path, 3)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    num_lines = whole[:cut].count(b"\n")
    with Journal(path, HEAD) as journal:
        assert sorted(journal.contents.trials) == list(range(max(num_lines - 2, 0)))
        if not journal.contents.sessions:
            journal.append(SESSION)
        for index in range(3):
            if index not in journal.contents.trials:
                journal.append(result(index))
    assert path.read_bytes() == whole


@given(st.binary(max_size=60), st.integers(0, 3))
def test_damage_is_named_or_dropped_but_never_read(junk: bytes, line: int) -> None:
    lines = [b'{"format": "stepcast-search-1", "search": {}}', SESSION.model_dump_json().encode()]
    lines += [result(index).model_dump_json().encode() for index in range(2)]
    lines[line] = b"#" + junk.replace(b"\n", b"")
    with pytest.raises(DataError, match=f"x, line {line + 1} must be a line of a search's journal"):
        parse_journal(b"\n".join(lines) + b"\n", "x")
    kept = parse_journal(b"\n".join(lines[: line + 1]), "x")  # the last line, and torn
    assert len(kept.sessions) + len(kept.trials) == max(line - 1, 0)


def test_no_trial_is_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    before = written(path, 2)
    with Journal(path, HEAD) as journal, pytest.raises(ValueError, match="trial 1 must be there once"):  # fmt: skip
        journal.append(result(1))
    assert path.read_bytes() == before
    last = before.splitlines(keepends=True)[-1]
    with pytest.raises(DataError, match=r"line 5 .* trial 1 must be there once"):
        parse_journal(before + last, "x")


def test_line_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with Journal(path, HEAD) as journal:
        journal.append(SESSION)
        journal.append(result(5))
        assert list(read_journal(path).trials) == [5]


def test_another_search_is_refused_and_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    before = written(path, 1)
    with pytest.raises(UsageError, match="has units 10, got 20"):
        Journal(path, {"search": {"units": "20", "seed": 0}})
    with pytest.raises(UsageError, match="has seed 0, got None"):
        Journal(path, {"search": {"units": "10"}})
    assert path.read_bytes() == before


def test_two_searches_never_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with Journal(path, HEAD), pytest.raises(UsageError, match="in which no other search runs"):
        Journal(path, HEAD, patience_s=0.0)
    Journal(path, HEAD).close()


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", '{"format": "stepcast-search-2", "search": {}}\n', "x\n"])  # fmt: skip
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="journal"):
        read_journal(path)
    with pytest.raises(DataError, match="journal"):
        read_journal(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot be written"):
        Journal(tmp_path / "absent" / "trials.jsonl", HEAD)


def test_refusal_leaves_no_open_file(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("x\n", encoding="utf-8")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(DataError):
        Journal(path, HEAD)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
