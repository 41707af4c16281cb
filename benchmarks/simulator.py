"""The two engines against SimGrid, and what a forecast takes: ``python benchmarks/simulator.py``.

Compared on one ring all-reduce of 40 MB, 1 Gbit/s and 50 us a message, whose exact time is
``2 (p - 1) (alpha + n / (p beta))``, beta being in bytes a second here:

- ``sim.solve`` on the program with its collective, and ``sim.simulate`` on the same program
  expanded into messages, as ``sim.predict`` calls them; the expansion is part of the time.
- SimGrid's Python bindings, if this Python or the system's has them, in a process of its own; its
  clock starts once it is configured, so neither interpreter nor library loading counts. Its
  settings are those under which it is exact, see ``simgrid_ring.py``. It is
  kept on one core, where it is fastest. Programs for it in C++ are faster still.

All have 2 p (p - 1) messages to account for; solve has them in one formula. They take turns in
every round; ratios are taken inside a round, and all is shown as the median (least..most).
Then: the whole process of a forecast up to 64 nodes, and one closed-form point of it. With
``--worlds`` thousands of ranks too, message by message (``large_worlds.py``).
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from large_worlds import large_world_records
from records import check_writable, provenance, write_records
from rich.table import Table
from ring import ALPHA_S, BYTES_PER_S, NBYTES, exact_s, flat_machine, num_messages, ring_program
from rounds import Spread, interleave, ratio, spread
from simgrid_ring import SimGrid, find_simgrid

from calibration.find import find_machine
from calibration.machine import write_machine
from exec.cli import console, make_app, run_app
from exec.errors import MachineError
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.workload import Workload, positive
from sim.costs import Costs
from sim.forecast import solved_step_s
from sim.simulate import simulate
from sim.solve import solve

FORECAST_NODES = 64
LEAST_S = 0.2  # a turn repeats what is shorter
SIMGRID = "SimGrid (Python)"
DEFAULT_MACHINE = "local+ethernet-cluster"  # that of sim.predict

Turn = Callable[[object], tuple[float, float]]
"""Return the seconds of one answer, and the answer."""

app = make_app("python benchmarks/simulator.py", "Compare the simulator with SimGrid.")


@app.default
def simulator(
    *, large: bool = False, worlds: bool = False, rounds: int = 5, out: Path | None = None
) -> None:
    """Compare the simulator with SimGrid.

    Parameters
    ----------
    large
        Also over 256 ranks, which takes simulate and SimGrid some 8 s each time.
    worlds
        Also thousands of ranks on arrays: CPU seconds, memory, and how both grow.
    rounds
        How often each contender takes its turn.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(out)
    simgrid = find_simgrid()
    head = provenance("simpy") | {"simgrid": simgrid.version if simgrid else "not installed"}
    records = [
        record
        for ranks in (8, 64, 256)[: 2 + large]
        for record in _ring_records(ranks, rounds, simgrid)
    ]
    records += _forecast_records(rounds)
    if worlds:
        records = [*large_world_records(rounds), *records]
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records, rounds)


def _ring_records(ranks: int, rounds: int, simgrid: SimGrid | None) -> list[dict[str, Any]]:
    """Measure the all-reduce over ``ranks`` ranks."""
    program, machine = ring_program(ranks), flat_machine()

    def solved() -> float:
        return solve(program, Costs(machine, program.mesh, 1), one_lane=False).step_time_s

    def simulated() -> float:
        costs = Costs(machine, program.mesh, 1)
        return simulate(expand(program), costs, one_lane=False).step_time_s

    contenders: dict[str, Turn] = {
        "sim.solve": lambda _: repeated(solved),
        "sim.simulate": lambda _: repeated(simulated),
    }
    if simgrid is not None:
        contenders[SIMGRID] = lambda _: simgrid.run(ranks, NBYTES, ALPHA_S, BYTES_PER_S)
    returned = interleave(contenders, range(rounds))
    times_s = {name: [took_s for took_s, _ in turns] for name, turns in returned.items()}
    records: list[dict[str, Any]] = [
        {
            "kind": "ring",
            "what": name,
            "ranks": ranks,
            "messages": num_messages(ranks),
            "seconds": asdict(spread(times_s[name])),
            "messages_per_s": num_messages(ranks) / spread(times_s[name]).median,
            "answer_s": turns[-1][1],
            "rel_error": turns[-1][1] / exact_s(ranks) - 1,
            "time_over_simulate": asdict(ratio(times_s[name], times_s["sim.simulate"])),
        }
        for name, turns in returned.items()
    ]
    if simgrid is None:
        records.append({"kind": "ring", "what": f"{SIMGRID}: not installed", "ranks": ranks})
    return records


def _forecast_records(rounds: int) -> list[dict[str, Any]]:
    """Measure the forecast command as a whole, and one point of it."""
    machine, name = flat_machine(), "a flat machine"
    workload, mesh = Workload(mlp(128, 100, 26), 1024), Mesh(dp=FORECAST_NODES)
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sim.predict", "--nodes", str(FORECAST_NODES)]
        try:
            machine, name = find_machine(DEFAULT_MACHINE), DEFAULT_MACHINE
        except MachineError:  # this computer has no profile; the work is the same on any machine
            path = Path(folder) / "flat.json"
            write_machine(machine, path)
            command += ["--machine", str(path)]

        def process() -> float:
            subprocess.run(command, check=True, capture_output=True)
            return 0.0

        def point() -> float:
            return solved_step_s(machine, workload, mesh, PlanOptions(), 1)

        returned = interleave(
            {
                f"sim.predict --nodes {FORECAST_NODES}, whole process": lambda _: timed(process),
                "one closed-form point: plan and solve": lambda _: repeated(point),
            },
            range(rounds),
        )
    return [
        {
            "kind": "forecast",
            "what": what,
            "ranks": FORECAST_NODES,
            "machine": name,
            "seconds": asdict(spread([took_s for took_s, _ in turns])),
        }
        for what, turns in returned.items()
    ]


def timed(call: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of one ``call``, and its answer."""
    start_s = perf_counter()
    answer = call()
    return perf_counter() - start_s, answer


def repeated(call: Callable[[], float]) -> tuple[float, float]:
    """Return the mean seconds of as many calls as a turn holds, and the answer."""
    start_s, num_calls = perf_counter(), 0
    while num_calls == 0 or perf_counter() - start_s < LEAST_S:
        answer = call()
        num_calls += 1
    return (perf_counter() - start_s) / num_calls, answer


def _print(head: dict[str, object], records: list[dict[str, Any]], rounds: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what", "ranks", "milliseconds", "messages/s", "answer, s", "rel. error", "time / simulate"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    for record in records:
        cells = [record["what"], str(record["ranks"])]
        if "seconds" in record:
            cells.append(_spread({key: 1e3 * value for key, value in record["seconds"].items()}))
        if record["kind"] == "large_world":
            cells += [f"{record['peak_nbytes'] / 2**20:.0f} MiB", f"{record['answer_s']:.6f}", "", record["simulated"].split(":")[0]]  # fmt: skip
        elif "answer_s" in record:
            cells += [f"{record['messages_per_s']:,.0f}", f"{record['answer_s']:.6f}",
                      f"{record['rel_error']:.0e}", _spread(record["time_over_simulate"])]  # fmt: skip
        table.add_row(*cells)
    out = console(150)
    out.print(f"one ring all-reduce of {NBYTES / 1e6:.0f} MB, {BYTES_PER_S * 8e-9:g} Gbit/s, {ALPHA_S * 1e6:g} us; "
              f"median (least..most) of {rounds} rounds\n{head['cpu']}, Python {head['python']}, SimPy {head['simpy']}, "
              f"SimGrid {head['simgrid']}, load average {head['load_average']}\n")  # fmt: skip
    out.print(table, crop=False)
    out.print(f"\nforecasts are on {records[-1]['machine']}")


def _spread(values: dict[str, float]) -> str:
    return str(Spread(**values))


if __name__ == "__main__":
    run_app(app)
