"""How every command line ends: one clear message and status 2 for what the user can mend."""

import os
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from cyclopts import App, CycloptsError, Parameter, Token, convert
from rich.console import Console

from exec.errors import StepcastError
from exec.launch import launched_rank

USAGE_STATUS, INTERRUPTED_STATUS = 2, 130


def make_app(name: str, help: str) -> App:
    """Return a cyclopts application whose errors :func:`run_app` reports."""
    return App(name=name, help=help, help_format="plaintext", version_flags=[],
               suppress_keyboard_interrupt=False,  # run_app says how it ends
               default_parameter=Parameter(converter=_convert))  # fmt: skip


def _convert(type_: Any, tokens: Sequence[Token]) -> Any:
    """Convert as cyclopts does, but for numbers that are not whole, which it would round."""
    if type_ is int and not re.fullmatch(r"[+-]?[0-9]+", tokens[0].value):
        raise ValueError(f'"{tokens[0].value}" is not a whole number')
    if isinstance(type_, type) and issubclass(type_, StrEnum):
        value = tokens[0].value.lower().replace("-", "_")
        if value in {each.value for each in type_}:  # files and the report spell it so
            return type_(value)
    return convert(type_, tokens)


def run_app(app: App, arguments: Sequence[str] | None = None) -> None:
    """Run ``app`` and exit: 0, or 2 with one message, or 130 after Ctrl-C.

    Under a launcher only rank 0 prints the message, which every rank would print alike.
    """
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(f"{' '.join(str(error).split())}\nTry: {' '.join(app.name)} --help", USAGE_STATUS)
    except StepcastError as error:
        _fail("\n".join([str(error), *getattr(error, "__notes__", [])]), USAGE_STATUS)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED_STATUS)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> None:
    if launched_rank(os.environ) == 0:
        sys.stdout.flush()
        sys.stderr.write(f"error: {message}\n")
    sys.exit(status)


def console(width: int | None = None) -> Console:
    """Return the console for human-readable output, at least ``width`` columns wide.

    A narrower terminal wraps the lines itself; nothing is cut.
    """
    out = Console(highlight=False, soft_wrap=True)
    if width is not None and out.width < width:
        out = Console(highlight=False, soft_wrap=True, width=width)
    return out
