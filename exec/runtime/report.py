"""What a training came to: one record for people and for machines."""

import os
import platform
import resource
import socket
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exec.device.protocol import Device
from exec.errors import UsageError
from exec.program.ops import Lane
from exec.program.timeline import Span
from exec.runtime.step import WAITING
from exec.transport.protocol import Transport


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where a timed step's time goes, in seconds, averaged over ranks.

    ``waiting_s`` is what a rank is held up beyond the rank that is held up least; that least is
    ``exposed_comm_s``.
    """

    compute_s: float
    exposed_comm_s: float
    waiting_s: float


def compute_and_held_s(spans: Sequence[Span]) -> tuple[float, float]:
    """Return for how long the compute lane of ``spans`` computed, and was held up."""
    sums: dict[bool, float] = defaultdict(float)
    for span in spans:
        if span.lane is Lane.COMPUTE:
            sums[span.name.startswith((WAITING, "poll"))] += span.duration_s
    return sums[False], sums[True]


def breakdown(
    num_timed: int, computed_s: float, held_s: float, transport: Transport
) -> tuple[int, Breakdown]:
    """Return how many turns were timed, on the rank with most, and where the time of one goes.

    A rank that has timed none does not count; all ranks must call it together.
    """
    gathered = transport.gather_objects((num_timed, computed_s, held_s))
    turns = [each for each in gathered if each[0]]
    if not turns:
        return 0, Breakdown(0.0, 0.0, 0.0)
    counts, compute, held = zip(*turns, strict=True)
    least = min(held)
    parts = Breakdown(statistics.fmean(compute), least, statistics.fmean(held) - least)
    return max(counts), parts


def gather_spans(spans: Sequence[Span], origin_s: float, transport: Transport) -> list[Span]:
    """Return all ranks' spans, on clocks that read zero when each rank's ``origin_s`` was."""
    moved = [
        replace(span, start_s=span.start_s - origin_s, end_s=span.end_s - origin_s)
        for span in spans
    ]
    gathered = transport.gather_objects(moved)
    return [span for theirs in gathered for span in theirs]


def is_oversubscribed(transport: Transport) -> bool:
    """Say whether some node runs more ranks than it has cores for them."""
    # Ranks may be bound to cores of their own: a node has all that any of its ranks may use.
    found: dict[str, list[frozenset[int]]] = defaultdict(list)
    for node, cores in transport.gather_objects((socket.gethostname(), _cores())):
        found[node].append(cores)
    return any(len(ranks) > len(frozenset().union(*ranks)) for ranks in found.values())


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(_cores())


def _cores() -> frozenset[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def peak_nbytes() -> int:
    """Return the most memory that this process, with all its threads, has ever been in."""
    # A process that another has started begins with that one's peak in its usage, but not in its status.
    if (peak := _said_in("/proc/self/status", "VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10  # elsewhere it is in KiB


def available_nbytes() -> int | None:
    """Return how much memory this computer can still give away, or None if it does not say."""
    return _said_in("/proc/meminfo", "MemAvailable")


def _said_in(path: str, name: str) -> int | None:
    """Return the bytes that Linux says in the line ``name`` of ``path``; elsewhere None."""
    try:
        with open(path, encoding="utf-8") as lines:
            found = next(line for line in lines if line.startswith(name))
    except (OSError, StopIteration):
        return None
    return int(found.split()[1]) << 10


def check_memory(nbytes: int, transport: Transport, device: Device | None = None) -> None:
    """Raise, on every rank, unless each node has room for the ``nbytes`` of all its ranks.

    With a ``device``, unless each of them has.

    Raises:
        UsageError: a node has not; all ranks must call it together.
    """
    held: dict[str, int] = defaultdict(int)
    known: dict[str, int] = {}
    place, free = socket.gethostname(), available_nbytes()
    if device is not None:
        place, free = f"{device.name} {device.address} of {place}", device.memory()[0]
    for host, available, theirs in transport.gather_objects((place, free, nbytes)):
        held[host] += theirs
        if available is not None:
            known[host] = min(available, known.get(host, available))
    for host, available in known.items():
        if held[host] > available:
            raise UsageError(
                f"the ranks on {host} must fit into its memory, of which {available / 2**30:.1f} GiB "
                f"are free, got {held[host] / 2**30:.1f} GiB of parameters and activations; use a "
                f"smaller batch or net, or more nodes"
            )


def cpu_model() -> str:
    """Return the processor's name, as well as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux; the platform module answers below
    return platform.processor() or platform.machine()


def software() -> dict[str, str]:
    """Return the versions on which times depend."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "system": f"{platform.system()} {platform.release()}",
    }
