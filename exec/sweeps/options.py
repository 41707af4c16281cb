"""The trainer's own options, asked of its command line and so never listed here.

Whatever ``python -m exec.train`` accepts can be varied or handed on; a wrong name or value is
refused by a dry parse, before anything runs.
"""

import math
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from cyclopts import CycloptsError

from exec.errors import UsageError, unknown_name
from exec.sweeps.cells import Axis, Scalar
from exec.train import app, train

_OF_THE_SWEEP = {
    "ranks": "give --ranks to the sweep itself",
    "seed": "give the sweep --seed, the first run's, and --repeats",
    "transport": "give --transport to the sweep itself",
    "json": "the sweep asks for the record itself",
}
# What the trainer writes: every cell would write over, or go on from, the one before.
_WRITTEN = ("save", "trace", "checkpoint", "arrivals", "monitor_plot")


def make_axis(name: str, values: Sequence[str]) -> Axis:
    """Return the axis of the trainer's option ``name``, spelled as on its command line or not.

    Raises:
        UsageError: the trainer has no such option, a value is none that it takes, or two are equal.
    """
    spelled = "--" + name.strip().lstrip("-").replace("_", "-")
    found = {each: argument for argument in app.assemble_argument_collection() for each in argument.names}  # fmt: skip
    if spelled not in found:
        raise UsageError(unknown_name("vary", spelled.lstrip("-"), [each.lstrip("-") for each in found]))  # fmt: skip
    option, field = found[spelled].names[0], found[spelled].field_info.name
    if field != "ranks":
        _check_owner(field, "varied")
    plain = tuple(_parse([f"{option}={text}"])[field] for text in values)
    for i, value in enumerate(plain):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{option[2:]} must be finite numbers, got {values[i]}")
        if value in plain[:i]:
            raise UsageError(f"{option[2:]} must not repeat a value, got {value} twice")
    return Axis(field, option, plain, tuple(values))


def check_fixed(tokens: Sequence[str], axes: Sequence[Axis]) -> dict[str, Scalar]:
    """Return the options in ``tokens`` that every cell shares, by name, in one spelling.

    Raises:
        UsageError: the trainer would not parse them, or one is the sweep's own or an axis.
    """
    fixed = _parse(tokens)
    for name in fixed:
        _check_owner(name, "handed on")
        if any(axis.name == name for axis in axes):
            raise UsageError(f"{_dashed(name)} must not be both varied and handed on")
    return dict(sorted(fixed.items()))


def without_folders(text: str, tokens: Sequence[str]) -> str:
    """Return ``text`` with the folders of the paths in ``tokens``, the home and this one cut off.

    What is written down must not depend on where a machine keeps its files.
    """
    values = {token.rpartition("=")[2] for token in tokens if os.sep in token}
    for value in sorted((each for each in values if _base(each)), key=len, reverse=True):
        text = text.replace(os.path.abspath(value), _base(value)).replace(value, _base(value))
    text = text.replace(os.getcwd() + os.sep, "")
    return text.replace(str(Path.home()) + os.sep, "~" + os.sep)


def _check_owner(name: str, what: str) -> None:
    if name in _OF_THE_SWEEP:
        raise UsageError(f"{_dashed(name)} must not be {what}; {_OF_THE_SWEEP[name]}")
    if name in _WRITTEN:
        raise UsageError(f"{_dashed(name)} must not be {what}; every cell would write over the one before")  # fmt: skip


def _parse(tokens: Sequence[str]) -> dict[str, Scalar]:
    """Return what the trainer reads in ``tokens``, without running it."""
    try:
        command, bound, _ = app.parse_args(list(tokens), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(f"exec.train: {' '.join(str(error).split())}") from error
    if command is not train:
        raise UsageError(f"options of exec.train must train, got {' '.join(tokens)}")
    return {name: _plain(value) for name, value in bound.arguments.items()}


def _plain(value: Any) -> Scalar:
    """Return ``value`` as one JSON scalar, alike for all its spellings; of a path, its last part."""
    match value:
        case StrEnum():
            return str(value)
        case bool() | int() | float():
            return value
        case str() | Path():
            return _base(str(value))
        case Mapping():
            return ",".join(f"{name}={_plain(each)}" for name, each in value.items())
        case list() | tuple():
            return ",".join(str(_plain(each)) for each in value)
        case _:
            return str(value)


def _base(text: str) -> str:
    return os.path.basename(text.rstrip(os.sep)) if os.sep in text else text


def _dashed(name: str) -> str:
    return name.replace("_", "-")
