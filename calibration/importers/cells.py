"""Cells of printed tables: numbers that are whole, or an error that names the line."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from exec.errors import MachineError

TAG = re.compile(r"^\s*(\[[\d,]+\]<\w+>:?|\d+:(?=\s*[#\d]))\s?")
"""What launchers put before each line of a rank."""
_NUMBER = re.compile(r"\d+(\.\d+)?")


def text_of(path: Path) -> str:
    """Return the text of ``path``.

    Raises:
        MachineError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"measurements {path} cannot be read: {error}") from error


def refuse(place: str, problem: str) -> NoReturn:
    """Raise a :class:`MachineError` about ``place``."""
    raise MachineError(f"{place}: {problem}")


@dataclass(slots=True)
class Decimals:
    """How many decimals each column of a table has: one with fewer was cut."""

    known: dict[str, int] = field(default_factory=dict)

    def number(self, token: str, column: str, place: str) -> float:
        """Return the number in ``token``, which has as many decimals as those above it."""
        if _NUMBER.fullmatch(token) is None:
            refuse(place, f"{column} must be a number, got {token}")
        decimals = len(token.partition(".")[2])
        expected = self.known.setdefault(column, decimals)
        if decimals != expected:
            refuse(place, f"{column} must have {expected} decimals as above, got {token}; was the line cut?")  # fmt: skip
        return float(token)


def positive_number(value: float, column: str, place: str) -> float:
    """Return ``value`` if it is above 0."""
    if not value > 0:
        refuse(place, f"{column} must be greater than 0, got {value}")
    return value


def is_row(tokens: Sequence[str], excuses: Collection[str]) -> bool:
    """Say whether ``tokens`` begin as rows do: with a number, and another, nothing or an excuse."""
    if not tokens or not tokens[0][0].isdigit():
        return False
    return len(tokens) == 1 or tokens[1][0].isdigit() or tokens[1] in excuses


def row_cells(tokens: Sequence[str], columns: Sequence[str], place: str) -> dict[str, str]:
    """Return the row ``tokens`` by its ``columns``, of which none may lack."""
    if len(tokens) != len(columns):
        refuse(place, f"a row must have {len(columns)} columns, got {len(tokens)}: {' '.join(tokens)}")  # fmt: skip
    return dict(zip(columns, tokens, strict=True))


def check_mean(
    least_us: float | None, mean_us: float | None, most_us: float | None, column: str, place: str
) -> None:
    """Hold that the mean is between the least and the most, where all are known."""
    if least_us is None or mean_us is None or most_us is None:
        return
    if not least_us <= mean_us <= most_us:
        refuse(place, f"{column} must be between {least_us:.2f} and {most_us:.2f} us, got {mean_us:.2f}")  # fmt: skip
