"""The peak of a process's memory while it does something, over what it held before; Linux only."""

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

from exec.errors import UsageError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


def peak_growth_nbytes(body: Callable[[], object]) -> int:
    """Return how far the resident memory rises above where it is now while ``body`` runs.

    What was freed before is first given back to the system, so that it is not used again unseen.

    Raises:
        UsageError: the peak cannot be set back here.
    """
    before = resident_nbytes()
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError as error:
        raise UsageError(f"the system must let a process set its peak memory back (Linux), got {error}") from error  # fmt: skip
    body()
    return _status_nbytes("VmHWM") - before


def resident_nbytes() -> int:
    """Return what this process holds in memory, once all that is free has been given back."""
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    return _status_nbytes("VmRSS")


def _status_nbytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
