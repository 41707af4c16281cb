"""Records: JSON lines, the first of which says where, when and how the others were measured."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from exec.errors import UsageError
from exec.runtime.report import cpu_model, num_cores, software

_HERE = Path(__file__).parent
_MEASURED = ("paper/measurements", "calibration/machines")


def provenance(*packages: str) -> dict[str, object]:
    """Return the machine, its load, the versions of ``packages``, the commit, date and command."""
    return {
        "kind": "provenance",
        "cpu": cpu_model(),
        "cores": num_cores(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        **software(),
        **{package: _version(package) for package in packages},
        "machine": platform.machine(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }


def check_writable(path: Path | None) -> None:
    """Raise :class:`UsageError` now, not after minutes of measuring, if ``path`` cannot be made."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"out must be a file in a folder that exists, got {path}")


def write_records(path: Path, records: Iterable[dict[str, object]]) -> None:
    """Write ``records`` to ``path``, one JSON object a line."""
    lines = (json.dumps(record, allow_nan=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")


def commit() -> str:
    """Return the commit, with a mark if tracked files but what measuring writes differ from it."""
    try:
        commit = _git("describe", "--always", "--exclude=*")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *(f":(exclude,top){each}" for each in _MEASURED))  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "-dirty" * bool(changed)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_HERE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
