"""Cells of printed tables: numbers that are whole, or an error that names the line."""

import re
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
