"""Measure how true the rig is: ``python -m tests.cluster.check --out FILE``, in about four minutes.

Four questions: do links carry what was asked; do two flows share an uplink; is a ring predicted by
the exchange of two hosts; does a padded step repeat. Each answer is one JSON record, and one line.
"""

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import check_writable, provenance, write_records
from exec.cli import console, make_app, run_app
from exec.workload import positive
from tests.cluster import rig
from tests.cluster.messages import TRAIN
from tests.cluster.padded import Case, measured, padded_machine
from tests.cluster.spec import BURST_NBYTES, Spec, parse_rate

app = make_app("python -m tests.cluster.check", "Measure how true the rig is.")

_NAME = "check"
_SIZES = (1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
_RING_NBYTES = 2_711_656  # the gradient of 784-512-512-26
_STEPS = (4, 8)

Record = dict[str, Any]


@app.default
def main(
    *,
    rate: str = "100mbit",
    burst: int = BURST_NBYTES,
    multiple: float = 50.0,
    machine: str = "paper/measurements/machine-2core-epyc.json",
    repeats: int = 5,
    out: Path | None = None,
) -> None:
    """Measure how true the rig is.

    Parameters
    ----------
    rate
        The rate of the links.
    burst
        Bytes that a link may send at once after a pause.
    multiple
        How many times their calibrated time padded ops take.
    machine
        The Machine whose times are padded.
    repeats
        How often each step is run; messages are passed at least four times as often.
    out
        Write JSON lines here.
    """
    positive("repeats", repeats)
    check_writable(out)
    bits_per_s = parse_rate("rate", rate)
    padded = padded_machine(machine, multiple)
    records: list[Record] = []

    def add(found: Iterator[Record]) -> None:
        for record in found:
            records.append(record | {"load_average": os.getloadavg()[0]})
            console(140).print(_line(record))

    with rig.cluster(Spec(2, bits_per_s, burst_nbytes=burst), _NAME):
        add(_shaping(bits_per_s, 4 * repeats))
    with rig.cluster(Spec(4, bits_per_s, racks=2, uplink_bits_per_s=bits_per_s, burst_nbytes=burst), _NAME):  # fmt: skip
        add(_contention(bits_per_s, 4 * repeats))
    with rig.cluster(Spec(max(_STEPS), bits_per_s, burst_nbytes=burst), _NAME):
        for hosts in _STEPS:
            add(_ring(hosts, 4 * repeats))
            add(_step(padded, multiple, hosts, repeats))
    if out is not None:
        settings = {"rate_bits_per_s": bits_per_s, "burst_nbytes": burst, "multiple": multiple, "mpi_environment": rig.MPI_ENVIRONMENT}  # fmt: skip
        write_records(out, [provenance("mpi4py", "mpich") | settings, *records])


def times_of(hosts: int, pattern: str, repeats: int, sizes: Sequence[int]) -> dict[int, list[float]]:  # fmt: skip
    """Return the times of ``pattern`` between the first ``hosts``, in seconds, by size."""
    command = ["python", "-m", "tests.cluster.messages", pattern, str(repeats), *map(str, sizes)]
    done = rig.run(_NAME, command, hosts=hosts, is_captured=True, timeout_s=300)
    if done.returncode:
        raise rig.RigError(f"{pattern} between {hosts} hosts failed: {done.stderr.strip()}")
    return {int(nbytes): each for nbytes, each in json.loads(done.stdout).items()}


def _shaping(bits_per_s: int, repeats: int) -> Iterator[Record]:
    for pattern, messages in (("ping", 2), ("exchange", 1)):
        for nbytes, times_s in times_of(2, pattern, repeats, _SIZES).items():
            each_s = statistics.median(times_s) / messages
            yield {
                "kind": "shaping", "pattern": pattern, "nbytes": nbytes, "time_s": each_s,
                "spread": _spread(times_s), "share_of_rate": 8 * nbytes / each_s / bits_per_s,
            }  # fmt: skip


def _contention(bits_per_s: int, repeats: int) -> Iterator[Record]:
    size = _SIZES[-1]
    alone_s = times_of(4, "ping", repeats, [size])[size]
    both_s = times_of(4, "across", repeats, [size])[size]
    one_s, two_s = statistics.median(alone_s) / 2, statistics.median(both_s)
    yield {
        "kind": "contention", "nbytes": size, "alone_s": one_s, "both_s": two_s,
        "spread": _spread(both_s), "slowdown": two_s / one_s,
        "share_of_uplink": 2 * 8 * size / two_s / bits_per_s,
    }  # fmt: skip


def _ring(hosts: int, repeats: int) -> Iterator[Record]:
    chunk = _RING_NBYTES // hosts
    exchange_s = statistics.median(times_of(2, "train", repeats, [chunk])[chunk]) / TRAIN
    times_s = times_of(hosts, "ring", repeats, [_RING_NBYTES])[_RING_NBYTES]
    predicted_s, measured_s = 2 * (hosts - 1) * exchange_s, statistics.median(times_s)
    yield {
        "kind": "ring", "hosts": hosts, "nbytes": _RING_NBYTES, "time_s": measured_s,
        "spread": _spread(times_s), "predicted_s": predicted_s,
        "error": predicted_s / measured_s - 1.0,
    }  # fmt: skip


def _step(padded: Any, multiple: float, hosts: int, repeats: int) -> Iterator[Record]:
    case = Case("data ring", "784-512-512-26", 512, hosts, {"algorithm": "ring"})
    runs = [measured(_NAME, case, padded, multiple, seed=0) for _ in range(repeats)]
    times_s = [run["step_time_s"] for run in runs]
    within = [(run["step_time_p90_s"] - run["step_time_p10_s"]) / 2.56 / run["step_time_s"] for run in runs]  # fmt: skip
    yield {
        "kind": "step", "hosts": hosts, "time_s": statistics.median(times_s),
        "repeats_s": times_s, "spread": _spread(times_s),
        "spread_within_a_run": statistics.median(within),
        "late_share": max(run["padded"]["late_share"] for run in runs),
    }  # fmt: skip


def _spread(times_s: Sequence[float]) -> float:
    """Return the relative standard deviation of ``times_s``, from their tenths if there are many.

    A normal distribution has 2.56 standard deviations between the first and the last tenth.
    """
    if len(times_s) < 10:
        return statistics.stdev(times_s) / statistics.mean(times_s) if len(times_s) > 1 else 0.0
    tenths = statistics.quantiles(times_s, n=10)
    return (tenths[-1] - tenths[0]) / 2.56 / statistics.median(times_s)


def _line(record: Record) -> str:
    spread = f"+-{record['spread']:.1%}"
    match record["kind"]:
        case "shaping":
            return f"{record['pattern']:8s} of {record['nbytes']:>8,} bytes: {record['share_of_rate']:.1%} of the rate, {spread}"  # fmt: skip
        case "contention":
            return f"two flows over one uplink: {record['slowdown']:.3f} times as long as one, {record['share_of_uplink']:.1%} of the rate, {spread}"  # fmt: skip
        case "ring":
            return f"ring over {record['hosts']} hosts: {record['time_s'] * 1e3:.1f} ms, {spread}; by exchanges of two in a row {record['error']:+.1%}"  # fmt: skip
        case _:
            return (
                f"padded step on {record['hosts']} hosts: {record['time_s'] * 1e3:.1f} ms, {spread} between runs, "
                f"+-{record['spread_within_a_run']:.1%} within; late by {record['late_share']:.1%}"
            )


if __name__ == "__main__":
    rig.end_in_order()
    run_app(app)
