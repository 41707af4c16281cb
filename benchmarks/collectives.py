"""The all-reduce of two ranks' gradients in several ways: ``python benchmarks/collectives.py``.

The ranks are MPI processes of this computer, and take turns in every round with

- window: the executor's own ops of algorithm shared_window, but for the update between them: a
  barrier, the sum of a slice, a barrier. All ranks can then read the whole sum, slice by slice, where
  it was made, as the update does; nothing is copied to each of them.
- gathered: the same, and a copy of the other slices into each rank's own array, which MPI's is.
- MPI_Allreduce in place, and the project's ring of messages.
- limit: each rank adds a slice of the other's array into its own, and nothing else: what the caches and
  the memory can do when nobody waits. Each byte of the slice is read twice and written once.

Before each all-reduce every rank has written its whole gradient, as a backward pass does, and met the
others. Ratios are taken inside a round, of the slower rank's times, and shown as median (least..most).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from mpi_runs import binding_of, launcher
from numpy.typing import NDArray
from records import check_writable, provenance, write_records
from rich.table import Table
from rounds import interleave, ratio, spread

from calibration.probe import bind_ops
from exec.cli import console, make_app, run_app
from exec.plan.collectives import expand
from exec.plan.window import slice_of
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Accumulate, Algorithm, Collective, CollectiveKind, Op, Repeat
from exec.program.peers import Part, Shift, split_start
from exec.program.program import Program, Role
from exec.runtime.job import TransportName, run_job
from exec.transport.protocol import Transport
from exec.workload import positive

SIZES = (("2.7 MB", 678_000), ("40 MB", 10_000_000))
"""The gradients of 784-512-512-26, and of a net of ten million parameters, in float32."""
TURN_NBYTES = 8e7
"""As many repetitions as all-reduce this make a turn."""

app = make_app("python benchmarks/collectives.py", "Compare ways to all-reduce on one node.")


@app.default
def collectives(*, ranks: int = 2, rounds: int = 21, out: Path | None = None) -> None:
    """Compare ways to all-reduce on one node.

    Parameters
    ----------
    ranks
        How many ranks.
    rounds
        How often each way takes its turn.
    out
        Write the records here, as JSON lines.
    """
    positive("ranks", ranks)
    positive("rounds", rounds)
    check_writable(out)
    command = [launcher(), *binding_of(ranks), "-n", str(ranks), sys.executable, __file__]
    done = subprocess.run([*command, "measure", str(rounds)], stdout=subprocess.PIPE, check=True)
    records = json.loads(done.stdout)
    head = provenance("mpi4py", "mpich")
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records)


@app.command(show=False)
def measure(rounds: int) -> None:
    """Measure on this rank; rank 0 prints the records."""
    run_job(TransportName.MPI, None, partial(_measure, rounds=rounds))


def _measure(wire: Transport, rounds: int) -> None:
    records = [_size(wire, name, elements, rounds) for name, elements in SIZES]
    if wire.rank == 0:
        print(json.dumps(records))


def _size(wire: Transport, name: str, elements: int, rounds: int) -> dict[str, object]:
    """Measure all-reduces of ``elements`` float32."""
    ways, written = _ways(wire, elements)
    repeats = max(1, round(TURN_NBYTES / (4 * elements)))

    def turn(call: Callable[[], object], _: int) -> float:
        took_s = 0.0
        for i in range(repeats + 1):
            for array in written:
                array.fill(0.0)
            wire.run_collective(CollectiveKind.BARRIER, written[0][:0], [], 0)
            start_s = perf_counter()
            call()
            took_s += perf_counter() - start_s if i else 0.0
        return max(wire.gather_objects(took_s / repeats))

    times_s = interleave({way: partial(turn, call) for way, call in ways.items()}, range(rounds))
    return {
        "kind": "collective",
        "size": name,
        "nbytes": 4 * elements,
        "ranks": wire.size,
        "rounds": rounds,
        "seconds": {way: asdict(spread(each)) for way, each in times_s.items()},
        "mpi_over": {
            way: asdict(ratio(times_s["MPI_Allreduce"], times_s[way])) for way in ("window", "gathered", "ring")
        },
        "ring_over_window": asdict(ratio(times_s["ring"], times_s["window"])),
        "over_limit": asdict(ratio(times_s["window"], times_s["limit"])),
        "limit_bytes_per_s": 3 * 4 * elements / spread(times_s["limit"]).median,
        "times_s": times_s,
    }  # fmt: skip


def _ways(
    wire: Transport, elements: int
) -> tuple[dict[str, Callable[[], object]], list[NDArray[np.float32]]]:
    """Return what does each of the ways once, and the arrays that hold this rank's gradient."""
    ranks, whole = wire.size, Part("grad", 0, elements)
    part = slice_of("grad", elements, ranks)
    added = Repeat(ranks - 1, (Accumulate(part, part, Shift(Axis.DP, 1, 1)),))

    def barrier(id: str) -> Op:
        return Collective(id, CollectiveKind.BARRIER, Part("grad", 0, 0), Axis.DP)

    def allreduce(algorithm: Algorithm) -> tuple[Op, ...]:
        op = Collective("sum", CollectiveKind.ALLREDUCE, whole, Axis.DP, algorithm)
        role = Role("all", range(ranks), range(1), range(1), (op,))
        return expand(Program(Mesh(dp=ranks), 4, (role,))).roles[0].ops

    windows = wire.split(0).share(elements, np.float32)
    shared = {"grad": dict(enumerate(windows))}
    window, _ = bind_ops(wire, (barrier("written"), added, barrier("updated")), elements, shared)
    limit, _ = bind_ops(wire, (added,), elements, shared)
    own = np.zeros(elements, np.float32)
    alone = {"grad": {wire.rank: own}}
    library, _ = bind_ops(wire, allreduce(Algorithm.LIBRARY), elements, alone)
    ring, _ = bind_ops(wire, allreduce(Algorithm.RING), elements, alone)
    third, _ = bind_ops(wire, (barrier("gathered"),), 1)
    borders = [split_start(elements, ranks, rank) for rank in range(ranks + 1)]
    others = [
        (windows[wire.rank][start:stop], windows[rank][start:stop])
        for rank, (start, stop) in enumerate(pairwise(borders))
        if rank != wire.rank
    ]

    def gathered() -> None:
        window.run()
        for mine, theirs in others:
            np.copyto(mine, theirs)
        third.run()  # nobody may compute its next gradient while another still copies

    ways = {
        "window": window.run, "gathered": gathered, "MPI_Allreduce": library.run, "ring": ring.run,
        "limit": limit.run,
    }  # fmt: skip
    return ways, [windows[wire.rank], own]


def _print(head: dict[str, object], records: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("size", "window, ms", "gathered", "MPI_Allreduce", "ring", "MPI / window", "MPI / gathered", "ring / window", "window / limit", "limit, GB/s"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "size" else "right")
    shown = "{median:.3g} ({low:.3g}..{high:.3g})"
    for record in records:
        seconds = record["seconds"]
        times = (seconds[way]["median"] for way in ("window", "gathered", "MPI_Allreduce", "ring"))
        ratios = (record["mpi_over"]["window"], record["mpi_over"]["gathered"],
                  record["ring_over_window"], record["over_limit"])  # fmt: skip
        table.add_row(record["size"], *(f"{1e3 * each:.3f}" for each in times),
                      *(shown.format(**each) for each in ratios),
                      f"{record['limit_bytes_per_s'] / 1e9:.1f}")  # fmt: skip
    screen = console(150)
    screen.print(f"all-reduce of float32 over {records[0]['ranks']} ranks, {records[0]['rounds']} rounds; ratios: median (least..most)\n"
                 f"{head['cpu']}, mpich {head['mpich']}, load average {head['load_average']}\n")  # fmt: skip
    screen.print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
