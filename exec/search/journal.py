"""The journal of a search: a JSON line for each trial that finished, written as it does.

A line is on the disk before the next trial is handed out, so that a kill loses at most the trials
that were under way. The first line says what is searched, where and when; a line that a kill has
torn is dropped. One search writes at a time: it holds a lock, which ends with its process.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError

from exec.errors import DataError, UsageError
from exec.search.record import SessionStart, TrialResult

FORMAT = "stepcast-search-1"
_LINE: TypeAdapter[SessionStart | TrialResult] = TypeAdapter(
    Annotated[SessionStart | TrialResult, Field(discriminator="kind")]
)
PATIENCE_S, _SLEEP_S = 5.0, 0.05  # for a killed search to let go of its lock


@dataclass(slots=True)
class Contents:
    """What a journal says; ``nbytes`` is the length of its whole lines."""

    head: dict[str, Any] = field(default_factory=dict)
    sessions: list[SessionStart] = field(default_factory=list)
    trials: dict[int, TrialResult] = field(default_factory=dict)
    nbytes: int = 0

    @property
    def search(self) -> dict[str, Any]:
        """What is searched, and how."""
        found: dict[str, Any] = self.head["search"]
        return found

    def add(self, line: SessionStart | TrialResult) -> None:
        """Add ``line``.

        Raises:
            ValueError: the trial is here already.
        """
        if isinstance(line, SessionStart):
            self.sessions.append(line)
        elif line.index in self.trials:
            raise ValueError(f"trial {line.index} must be there once")
        else:
            self.trials[line.index] = line


def parse_journal(data: bytes, name: str) -> Contents:
    """Return what ``data`` says; a last line that is torn is left out.

    Raises:
        DataError: any other line is damaged; the message names it.
    """
    contents = Contents()
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            if number == 1:
                contents.head = _parse_head(line)
            else:
                contents.add(_LINE.validate_json(line))
        except ValueError as error:  # pydantic's and json's too
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise DataError(
                f"{name}, line {number} must be a line of a search's journal: {problem}; "
                f"mend it, or search in a new folder"
            ) from error
        contents.nbytes += len(line) + 1
    return contents


def _parse_head(line: bytes) -> dict[str, Any]:
    head = json.loads(line)
    if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("search"), dict):  # fmt: skip
        raise ValueError(f"the first one must say format {FORMAT} and what is searched")
    return head


def read_journal(path: Path) -> Contents:
    """Return what the journal at ``path`` says.

    Raises:
        DataError: it is absent, empty or damaged.
    """
    try:
        contents = parse_journal(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} must be the journal of a search: {error.strerror}") from error
    if not contents.head:
        raise DataError(f"{path} must be the journal of a search, got an empty file")
    return contents


class Journal:
    """A journal that is open to be written: a context manager that holds its lock."""

    def __init__(self, path: Path, head: Mapping[str, Any], patience_s: float = PATIENCE_S) -> None:
        """Open the journal at ``path``, or begin it with ``head``.

        Raises:
            UsageError: another search runs there, or one of something else than ``head`` says.
            DataError: the journal is damaged.
        """
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        try:
            _lock(self._file, path, patience_s)
            self.contents = parse_journal(path.read_bytes(), str(path))
            if self.contents.head:
                _check_same(self.contents.search, head["search"], path)
            os.ftruncate(self._file, self.contents.nbytes)
            os.lseek(self._file, 0, os.SEEK_END)
            if not self.contents.head:
                self.contents.head = {"kind": "provenance", "format": FORMAT, **head}
                self._write(json.dumps(self.contents.head, allow_nan=False))
                _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, line: SessionStart | TrialResult) -> None:
        """Write ``line``; it is on the disk when this returns."""
        self.contents.add(line)
        self._write(line.model_dump_json())

    def close(self) -> None:
        """Let another search write."""
        os.close(self._file)

    def _write(self, text: str) -> None:
        left = memoryview(text.encode() + b"\n")
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            raise DataError(f"the journal cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.close()


def _lock(file: int, path: Path, patience_s: float) -> None:
    """Lock ``file``; a search that has just been killed has ``patience_s`` to end."""
    give_up_s = monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > give_up_s:
                raise UsageError(
                    f"out must be a folder in which no other search runs, got {path.parent}"
                ) from None
            sleep(_SLEEP_S)
        except OSError as error:
            raise UsageError(f"{path} cannot be locked: {error.strerror}") from error
        else:
            return


def _check_same(there: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    for name in {**there, **asked}:
        if there.get(name) != asked.get(name):
            option = name.replace("_", "-")
            raise UsageError(
                f"out must be a new folder for another search: the one in {path.parent} has "
                f"{option} {there.get(name)}, got {asked.get(name)}"
            )


def _sync_folder(folder: Path) -> None:
    """Put the name of a new file on the disk too."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
