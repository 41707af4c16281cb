"""Utilisation: what the monitor read, as rates; for the record and for the trace."""

import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from exec.program.timeline import Counter
from exec.runtime.monitor import Reading, Usage

MIB = 2**20


def cpu_cores(readings: Sequence[Reading]) -> list[float]:
    """Return the CPU use between each reading and the next, in cores."""
    return [(b.cpu_s - a.cpu_s) / (b.time_s - a.time_s) for a, b in pairwise(readings)]


def sent_nbytes_per_s(readings: Sequence[Reading]) -> list[float]:
    """Return the bytes sent a second between each reading and the next."""
    return [(b.sent_nbytes - a.sent_nbytes) / (b.time_s - a.time_s) for a, b in pairwise(readings)]


def utilisation_record(usages: Sequence[Usage]) -> dict[str, Any] | None:
    """Return the usage for the record of a training, or None where nothing was monitored.

    ``cpu`` is the mean since the reading before, in cores; its first is 0. ``sent_bytes`` is what
    the rank had sent so far.
    """
    if not usages:
        return None
    ranks = [_rank_record(usage) for usage in usages]
    return {
        "mean_cpu": round(sum(rank["mean_cpu"] for rank in ranks), 4),
        "ranks_share_memory": usages[0].shares_memory,
        "ranks": ranks,
    }


def _rank_record(usage: Usage) -> dict[str, Any]:
    readings = usage.readings
    first, last = readings[0], readings[-1]
    return {
        "rank": usage.rank,
        "time_s": [round(each.time_s, 6) for each in readings],
        "cpu": [0.0, *(round(cores, 4) for cores in cpu_cores(readings))],
        "memory_bytes": [each.memory_nbytes for each in readings],
        "sent_bytes": [each.sent_nbytes for each in readings],
        "mean_cpu": round((last.cpu_s - first.cpu_s) / (last.time_s - first.time_s), 4),
        "peak_memory_bytes": max(each.memory_nbytes for each in readings),
        "total_sent_bytes": last.sent_nbytes - first.sent_nbytes,
    }


def counters(usages: Sequence[Usage]) -> Iterator[Counter]:
    """Yield the usage as counters; a rate begins at the reading from which it is counted."""
    for usage in usages:
        readings = usage.readings
        sent_mib = [rate / MIB for rate in sent_nbytes_per_s(readings)]
        memory_mib = [each.memory_nbytes / MIB for each in readings]
        for name, unit, values in (
            ("CPU", "cores", [*cpu_cores(readings), 0.0]),
            ("memory", "MiB", memory_mib),
            ("sent", "MiB/s", [*sent_mib, 0.0]),
        ):
            for reading, value in zip(readings, values, strict=True):
                yield Counter(usage.rank, name, reading.time_s, round(value, 4), unit)


def utilisation_line(record: dict[str, Any]) -> str:
    """Return what :func:`utilisation_record` says, for people."""
    cpu = [rank["mean_cpu"] for rank in record["ranks"]]
    peak = max(rank["peak_memory_bytes"] for rank in record["ranks"]) / MIB
    sent = sum(rank["total_sent_bytes"] for rank in record["ranks"]) / MIB
    spread = f" ({min(cpu):.2f} to {max(cpu):.2f})" if len(cpu) > 1 else ""
    return (
        f"used: CPU {statistics.fmean(cpu):.2f} cores a rank{spread}, memory at most {peak:,.0f} MiB "
        f"{'for all ranks' if record['ranks_share_memory'] else 'a rank'}, {sent:,.2f} MiB sent"
    )
