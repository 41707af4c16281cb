"""The simulator against others and against its floor: ``python benchmarks/simulator.py``.

One table, of CPU seconds:

- one ring all-reduce of 40 MB over 1 Gbit/s and 50 us a message, whose exact time is
  ``2 (p - 1) (alpha + n / (p beta))``, on 16 to 16,384 ranks, by our engines, by SimPy written by hand
  and by SimGrid (``simulator_rings.py``);
- whole training steps of thousands of ranks, and under noise many draws of one (``large_worlds.py``), and
  replicas of which only one is simulated, by events (``folded_worlds.py``);
- what only events can tell (``simulator_events.py``);
- sweeps of ten thousand points (``sweep.py``).

The last column is the limit: the time over that of the same ring steps in bare NumPy, on as many ranks
and replicas; of events, how many bare timeouts SimPy does in the time of a message. Rates and limits are
medians, times median (least..most) of the rounds.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Annotated, Any

import numpy_ring
from cyclopts import Parameter
from folded_worlds import folded_world_records
from large_worlds import NUM_REPLICAS, large_world_records
from records import check_writable, provenance, write_records
from rich.table import Table
from ring import ALPHA_S, BYTES_PER_S, NBYTES
from rounds import Spread, spread
from simgrid_ring import find_simgrid
from simulator_events import event_records
from simulator_rings import SIMGRID, SOLVE, floor_record, ring_records

from exec.cli import console, make_app, run_app
from exec.errors import UsageError, unknown_name
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Collective
from exec.workload import Workload, positive

SCRIPT_ROUNDS = 3
PARTS = ("rings", "worlds", "events", "sweep")
RING_NETS = {"ResNet-18": "resnet18", "MLP": "784-512-26"}
"""Of large worlds that all-reduce by rings: how their cases begin, and the network."""

Flag = Annotated[bool, Parameter(negative=())]
Record = dict[str, Any]

app = make_app("python benchmarks/simulator.py", "Compare the simulator with others.")


@app.default
def simulator(
    *, large: Flag = False, parts: tuple[str, ...] = PARTS, rounds: int = 5, out: Path | None = None
) -> None:
    """Compare the simulator with others, and with its floor.

    Parameters
    ----------
    large
        Also events and SimPy over 1,024 ranks, and SimGrid over 256: two minutes more.
    parts
        Only these of rings, worlds, events and sweep.
    rounds
        How often each contender takes its turn.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    for part in parts:
        if part not in PARTS:
            raise UsageError(unknown_name("parts", part, PARTS))
    check_writable(out)
    simgrid = find_simgrid()
    head = provenance("simpy") | {"simgrid": simgrid.version if simgrid else "not installed"}
    records: list[Record] = [floor_record(rounds)]
    if "rings" in parts:
        records += ring_records(rounds, simgrid, is_large=large)
    if "worlds" in parts:
        records += floored(large_world_records(rounds), rounds)
        records += folded_world_records(rounds)
    if "events" in parts:
        records += event_records(rounds, rings=False)
    if "sweep" in parts:
        records += [each for each in _of_script("sweep", rounds) if each["kind"] == "sweep"]
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records, rounds)


def _of_script(name: str, rounds: int) -> list[Record]:
    """Return the records of another of these scripts, in a process of its own and some rounds only."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        command = [
            sys.executable,
            str(Path(__file__).with_name(f"{name}.py")),
            "--rounds",
            str(min(rounds, SCRIPT_ROUNDS)),
            "--out",
            str(path),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][1:]


def floored(worlds: list[Record], rounds: int) -> Iterator[Record]:
    """Yield the large ``worlds``, those of rings with the time of their ring steps in bare NumPy."""
    for record in worlds:
        case, ranks = record["case"], record["ranks"]
        net = next((net for name, net in RING_NETS.items() if case.startswith(f"{name},")), None)
        if net is None:
            yield record
            continue
        replicas = NUM_REPLICAS if "draws" in case else 1
        rings = num_rings(net, ranks)
        act = partial(numpy_ring.ring, ranks, NBYTES, ALPHA_S, BYTES_PER_S, replicas)
        taken = []
        for _ in range(rounds):
            start_s = process_time()
            act()
            taken.append(rings * (process_time() - start_s))
        over = record["seconds"]["median"] / spread(taken).median
        yield record | {"rings": rings, "floor_seconds": asdict(spread(taken)), "time_over_floor": over}  # fmt: skip


def num_rings(net: str, ranks: int) -> int:
    """Return how many rings a data-parallel step of ``net`` runs: one a bucket of gradients."""
    options = PlanOptions(algorithm=Algorithm.RING)
    program = plan_step(Workload(parse_net(net), 8 * ranks), Mesh(ranks), options)
    return sum(isinstance(op, Collective) and op.algorithm is Algorithm.RING for op in program.roles[0].ops)  # fmt: skip


def _print(head: Record, records: list[Record], rounds: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "ranks", "CPU seconds", "thousand/s", "MiB", "rel. error", "limit"):
        is_left = heading == "what"
        table.add_column(heading, justify="left" if is_left else "right", no_wrap=True)
    timeouts = next(each["messages_per_s"]["median"] for each in records if each["kind"] == "timeouts")  # fmt: skip
    for record in records:
        table.add_row(*_cells(record, timeouts))
    if head["simgrid"] == "not installed":
        table.add_row(f"{SIMGRID}: not installed")
    out = console(150)
    out.print(f"ring: {NBYTES / 1e6:.0f} MB, {BYTES_PER_S * 8e-9:g} Gbit/s, {ALPHA_S * 1e6:g} us; median (least..most) of {rounds} rounds; "
              f"thousand/s: messages, timeouts or points\n{head['cpu']}, Python {head['python']}, NumPy {head['numpy']}, SimPy {head['simpy']}, "
              f"SimGrid {head['simgrid']}, load average {head['load_average']}\n")  # fmt: skip
    out.print(table, crop=False)


def _cells(record: Record, timeouts_per_s: float) -> tuple[str, ...]:
    match record["kind"]:
        case "ring":
            is_solved = record["what"] == SOLVE
            return (f"ring, {record['what']}", f"{record['ranks']:,}", _spread(record["seconds"]),
                    "" if is_solved else _thousands(record), "", f"{record['rel_error']:.0e}",
                    "" if is_solved else f"{record['time_over_floor']['median']:.3g} x floor")  # fmt: skip
        case "timeouts":
            return record["what"], "", _spread(record["seconds"]), _thousands(record)
        case "large_world":
            engine = (
                "folded, events"
                if "one for each" in record["simulated"]
                else record["simulated"].split(" over")[0].split(":")[0]
            )
            limit = f"{record['time_over_floor']:.3g} x floor" if "time_over_floor" in record else ""  # fmt: skip
            return (f"{record['case']} ({engine})", f"{record['ranks']:,}", _spread(record["seconds"]), "",
                    f"{record['peak_nbytes'] / 2**20:.0f}", "", limit)  # fmt: skip
        case "events":
            limit = f"{timeouts_per_s / record['messages_per_s']['median']:.2g} timeouts a message"
            return (f"{record['case']}, {record['what']}", "", _spread(record["seconds"]), _thousands(record),
                    "" if record["peak_nbytes"] is None else f"{record['peak_nbytes'] / 2**20:.0f}", "", limit)  # fmt: skip
        case _:
            rate = "" if record["points"] is None else f"{1e-3 * record['points'] / record['cpu_s']['median']:.3g}"  # fmt: skip
            nets = f"{' and '.join(record['nets'])}, " if "nets" in record else ""
            return f"sweep: {nets}{record['what']}", "", _spread(record["cpu_s"]), rate


def _thousands(record: Record) -> str:
    return f"{1e-3 * record['messages_per_s']['median']:,.3g}"


def _spread(values: dict[str, float]) -> str:
    return str(Spread(**values))


if __name__ == "__main__":
    run_app(app)
