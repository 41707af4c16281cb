"""Messages a second of ``sim.simulate``: ``python benchmarks/simulator_events.py``.

Rings of 40 MB, whose messages all find their links free, beside the same ring written by hand in SimPy
(``simpy_ring.py``) and in SimGrid; round trips of 64 workers to one server beside SimGrid; then what
simulations are asked in earnest (``event_cases.py``). Beside each case stands what SimPy's clock takes
to let the ranks wait once for each message and do nothing else: the limit of an engine that waits on it.

Times are CPU seconds of this process, from the program with its collectives to the answer (of
SimGrid: wall seconds of a process of its own, from the first host on). Contenders take turns in
every round; a ratio is taken inside a round. Memory is what the process grows by. Steps over more ranks
and more steps of the same show how both grow with the number of messages.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import process_time
from typing import Any

from event_cases import SERVED_NBYTES, Case, cases, num_messages
from peak import peak_growth_nbytes
from records import check_writable, provenance, write_records
from rich.table import Table
from ring import ALPHA_S, BYTES_PER_S, NBYTES
from rounds import Spread, interleave, ratio, spread
from simgrid_ring import SimGrid, find_simgrid
from simpy_ring import clock, ring

from exec.cli import console, make_app, run_app
from exec.plan.collectives import expand
from exec.workload import positive
from sim.costs import Costs
from sim.simulate import simulate

OURS, BY_HAND, SIMGRID = "sim.simulate", "SimPy by hand", "SimGrid (Python)"
CLOCK = "SimPy's clock alone"
MOST_SIMGRID = 65  # ranks; 256 take it some 10 s a turn

app = make_app(
    "python benchmarks/simulator_events.py", "Measure the simulator's messages a second."
)


@app.default
def simulator_events(*, large: bool = False, rounds: int = 5, out: Path | None = None) -> None:
    """Measure the simulator's messages a second.

    Parameters
    ----------
    large
        Also the ring over 1,024 ranks, some 20 s a round, and SimGrid over 256.
    rounds
        How often each contender takes its turn.
    out
        Write the records here, as JSON lines.
    """
    positive("rounds", rounds)
    check_writable(out)
    simgrid = find_simgrid()
    head = provenance("simpy") | {"simgrid": simgrid.version if simgrid else "not installed"}
    records = event_records(rounds, large=large)
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records, rounds)


def event_records(rounds: int, *, large: bool = False, rings: bool = True) -> list[dict[str, Any]]:
    """Measure every case, one after another, its contenders in turn; on demand without ``rings``."""
    simgrid, most = find_simgrid(), 256 if large else MOST_SIMGRID
    chosen = (case for case in cases(large) if rings or case.pattern != "ring")
    return [record for case in chosen for record in _records(case, rounds, simgrid, most)]


def _records(case: Case, rounds: int, simgrid: SimGrid | None, most: int) -> list[dict[str, Any]]:
    messages, ranks = num_messages(expand(case.program)), case.program.mesh.world_size
    drawn = case.paces

    def timed(answer: Callable[[], float]) -> Callable[[object], tuple[float, float]]:
        def turn(_: object) -> tuple[float, float]:
            start_s = process_time()
            found = answer()
            return process_time() - start_s, found

        return turn

    def ours() -> float:
        costs = Costs(case.machine, case.program.mesh, 1)
        times = simulate(expand(case.program), costs, one_lane=False, paces=drawn)
        return times.step_time_s

    contenders = {OURS: timed(ours), CLOCK: timed(lambda: clock(ranks, messages))}
    if case.pattern == "ring":
        contenders[BY_HAND] = timed(lambda: ring(ranks, NBYTES, ALPHA_S, BYTES_PER_S))
    if case.pattern and simgrid is not None and ranks <= most:
        nbytes = NBYTES if case.pattern == "ring" else SERVED_NBYTES
        contenders[SIMGRID] = lambda _: simgrid.run(ranks, nbytes, ALPHA_S, BYTES_PER_S, case.pattern)  # fmt: skip
    returned = interleave(contenders, range(rounds))
    seconds = {name: [took_s for took_s, _ in turns] for name, turns in returned.items()}
    return [
        {
            "kind": "events",
            "case": case.name,
            "what": name,
            "messages": messages,
            "seconds": asdict(spread(seconds[name])),
            "messages_per_s": asdict(spread([messages / each for each in seconds[name]])),
            "answer_s": turns[-1][1],
            "time_over_simulate": asdict(ratio(seconds[name], seconds[OURS])),
            "peak_nbytes": peak_growth_nbytes(ours) if name == OURS else None,
        }
        for name, turns in returned.items()
    ]


def _print(head: dict[str, object], records: list[dict[str, Any]], rounds: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "what", "messages", "CPU seconds", "thousand messages/s", "answer, s", "time / simulate", "MB"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("case", "what") else "right", no_wrap=True)  # fmt: skip
    for record in records:
        thousands = {key: 1e-3 * value for key, value in record["messages_per_s"].items()}
        table.add_row(record["case"], record["what"], f"{record['messages']:,}", str(Spread(**record["seconds"])),
                      str(Spread(**thousands)), f"{record['answer_s']:.6f}", str(Spread(**record["time_over_simulate"])),
                      "" if record["peak_nbytes"] is None else f"{record['peak_nbytes'] / 1e6:.1f}")  # fmt: skip
    out = console(220)
    out.print(f"median (least..most) of {rounds} rounds\n{head['cpu']}, Python {head['python']}, SimPy {head['simpy']}, "
              f"SimGrid {head['simgrid']}, load average {head['load_average']}\n")  # fmt: skip
    out.print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
