"""Messages a second of ``sim.simulate``: ``python benchmarks/simulator_events.py``.

Rings of 40 MB over 64, 256 and 1,024 ranks, whose messages all find their links free, beside the same
ring written by hand in SimPy (``simpy_ring.py``) and, up to 256 ranks, in SimGrid. Then what
simulations are asked in earnest: a data-parallel step whose chunks are unequal and whose sums take time, servers with
64 workers whose messages share a link, and a hybrid of 4 x 4 x 4.

Times are CPU seconds of this process, from the program with its collectives to the answer (of
SimGrid: wall seconds of a process of its own, from the first host on). Contenders take turns in
every round; a ratio is taken inside a round.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

from records import check_writable, provenance, write_records
from rich.table import Table
from ring import ALPHA_S, BYTES_PER_S, NBYTES, flat_machine, ring_program
from rounds import Spread, interleave, ratio, spread
from simgrid_ring import SimGrid, find_simgrid
from simpy_ring import ring

from calibration.machine import KernelModel, Machine
from exec.cli import console, make_app, run_app
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.epoch import plan_epoch
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Kernel, Repeat, Send
from exec.program.program import Program
from exec.workload import Workload, positive
from sim.costs import Costs
from sim.simulate import simulate

OURS, BY_HAND, SIMGRID = "sim.simulate", "SimPy by hand", "SimGrid (Python)"
SUM_S = 1e-6  # of a sum in the cases that are no rings
MOST_SIMGRID = 64  # ranks; 256 take it some 10 s a turn

app = make_app(
    "python benchmarks/simulator_events.py", "Measure the simulator's messages a second."
)


@dataclass(frozen=True, slots=True)
class Case:
    """A program, the machine it is simulated on, and the ranks of a ring of its kind, or 0."""

    name: str
    program: Program
    machine: Machine
    ring: int = 0


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
    most = 256 if large else MOST_SIMGRID
    records = [record for case in cases(large) for record in _records(case, rounds, simgrid, most)]
    if out is not None:
        write_records(out, [head, *records])
    _print(head, records, rounds)


def cases(large: bool) -> list[Case]:
    """Return what is simulated."""
    flat = flat_machine()
    sums = _with_sums(flat)
    rings = [Case(f"ring of {ranks}", ring_program(ranks), flat, ranks) for ranks in (64, 256, 1024)[: 2 + large]]  # fmt: skip
    net, batch = mlp(128, 100, 26), 64 * 64
    step = plan_step(Workload(mlp(512, 512, 512, 26), 4096), Mesh(256), PlanOptions(algorithm=Algorithm.RING))  # fmt: skip
    server, asynchronous = (
        plan_epoch(Workload(net, batch), Mesh(65), PlanOptions(strategy=strategy), 40 * batch)[0].program
        for strategy in (Strategy.SERVER, Strategy.ASYNC_SERVER)
    )  # fmt: skip
    wide = Workload(mlp(256, 256, 256, 256, 256, 256, 64), 1024)
    hybrid = plan_step(wide, Mesh(4, 4, 4), PlanOptions(4, algorithm=Algorithm.RING))
    return [
        *rings,
        Case("data-parallel step of 256, sums take time", step, sums),
        Case("server, 64 workers, one step", server, sums),
        Case("async_server, 64 workers, 2,560 tickets", asynchronous, sums),
        Case("hybrid 4x4x4, 4 microbatches", hybrid, sums),
    ]


def num_messages(program: Program) -> int:
    """Return how many messages the expanded ``program`` sends."""
    count = 0
    for role in program.roles:
        times = role.times if not role.until else program.tickets / role.num_ranks
        for op in role.ops:
            body, repeats = (op.body, op.count) if isinstance(op, Repeat) else ((op,), 1)
            sends = sum(isinstance(each, Send) for each in body)
            count += round(sends * repeats * role.num_ranks * times)
    return count


def _with_sums(machine: Machine) -> Machine:
    """Return ``machine`` with sums that take time."""
    assert machine.compute is not None
    kernels = dict(machine.compute.kernels)
    model = kernels[Kernel.ACCUMULATE]
    kernels[Kernel.ACCUMULATE] = KernelModel(**(model.model_dump() | {"coefficients_s": model.coefficients_s | {"fixed": SUM_S}}))  # fmt: skip
    return machine.model_copy(update={"compute": machine.compute.model_copy(update={"kernels": kernels})})  # fmt: skip


def _records(case: Case, rounds: int, simgrid: SimGrid | None, most: int) -> list[dict[str, Any]]:
    messages = num_messages(expand(case.program))

    def timed(answer: Callable[[], float]) -> Callable[[object], tuple[float, float]]:
        def turn(_: object) -> tuple[float, float]:
            start_s = process_time()
            found = answer()
            return process_time() - start_s, found

        return turn

    def ours() -> float:
        costs = Costs(case.machine, case.program.mesh, 1)
        return simulate(expand(case.program), costs, one_lane=False).step_time_s

    contenders = {OURS: timed(ours)}
    if case.ring:
        what = (case.ring, NBYTES, ALPHA_S, BYTES_PER_S)
        contenders[BY_HAND] = timed(lambda: ring(*what))
        if simgrid is not None and case.ring <= most:
            contenders[SIMGRID] = lambda _: simgrid.run(*what)
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
        }
        for name, turns in returned.items()
    ]


def _print(head: dict[str, object], records: list[dict[str, Any]], rounds: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "what", "messages", "CPU seconds", "thousand messages/s", "answer, s", "time / simulate"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("case", "what") else "right", no_wrap=True)  # fmt: skip
    for record in records:
        thousands = {key: 1e-3 * value for key, value in record["messages_per_s"].items()}
        table.add_row(record["case"], record["what"], f"{record['messages']:,}", str(Spread(**record["seconds"])),
                      str(Spread(**thousands)), f"{record['answer_s']:.6f}", str(Spread(**record["time_over_simulate"])))  # fmt: skip
    out = console(160)
    out.print(f"median (least..most) of {rounds} rounds\n{head['cpu']}, Python {head['python']}, SimPy {head['simpy']}, "
              f"SimGrid {head['simgrid']}, load average {head['load_average']}\n")  # fmt: skip
    out.print(table, crop=False)


if __name__ == "__main__":
    run_app(app)
