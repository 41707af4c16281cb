"""Everything Stepcast raises on purpose.

A ``StepcastError`` is the user's to mend: its message says what is wrong, where, and what to do.
The command lines print it as one line and exit with status 2. Anything else is a bug, and shows
its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class StepcastError(Exception):
    """Base of every error a user can mend."""


class UsageError(StepcastError):
    """An option, or a combination of options, that cannot work."""


class DataError(StepcastError):
    """A dataset that is absent, damaged or of the wrong shape."""


class MachineError(StepcastError):
    """A Machine file that is absent, damaged or lacks what the forecast needs."""


class ModelFileError(StepcastError):
    """A weights file that is absent, damaged or of another network."""


class SweepError(StepcastError):
    """A sweep's file that is damaged or another sweep's, or a run of it that failed."""


class IllegalProgramError(StepcastError):
    """A program that no set of ranks could finish; the message draws the rank-by-step grid."""


class TransportError(StepcastError):
    """The wire cannot be set up as asked, or another rank has failed."""


class DeviceError(StepcastError):
    """An accelerator, or a library for it, that is absent or has failed."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a ``name`` that is none of the ``known`` ones, with a suggestion.

    >>> unknown_name("strategy", "pipelin", ["data", "pipeline"])
    "strategy must be one of data, pipeline, got 'pipelin'; did you mean 'pipeline'?"
    """
    names = list(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{what} must be one of {', '.join(names)}, got {name!r}{hint}"
