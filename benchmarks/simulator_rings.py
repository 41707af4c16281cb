"""One ring all-reduce of 40 MB on more and more ranks: our engines, others, and the floor.

- ``solve``: the program with its collective, in closed form.
- ``arrays``: the same, message by message, all ranks at once; what ``sim.predict --engine simulate``
  chooses here.
- ``events``: the same by discrete events.
- SimPy by hand (``simpy_ring.py``), and SimGrid (``simgrid_ring.py``) if its bindings are there.
- floor: the same ring in bare NumPy (``numpy_ring.py``).

Times are CPU seconds from the program to the answer; of SimGrid, which has a core to itself, the
wall seconds of its own process from the first host on. ``time_over_floor`` is taken inside a round.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from time import process_time
from typing import Any

import numpy_ring
import simpy_floor
import simpy_ring
from ring import ALPHA_S, BYTES_PER_S, NBYTES, exact_s, flat_machine, num_messages, ring_program
from rounds import interleave, ratio, spread
from simgrid_ring import SimGrid

from exec.plan.collectives import expand
from sim.costs import Costs
from sim.engines import Engine, simulated
from sim.simulate import simulate
from sim.solve import solve

Record = dict[str, Any]
Answer = Callable[[], float]

SOLVE, ARRAYS, EVENTS = "solve", "arrays", "events"
SIMPY, SIMGRID, FLOOR = "SimPy by hand", "SimGrid (Python)", "floor: NumPy"
RANKS = (16, 64, 256, 1024, 4096, 16_384)
MOST = {EVENTS: 256, SIMPY: 256, SIMGRID: 64}
"""The most ranks of those that go through one message after another."""
MOST_LARGE = {EVENTS: 1024, SIMPY: 1024, SIMGRID: 256}
LEAST_S = 0.1  # a turn repeats what is shorter
SLOW_RANKS, SLOW_ROUNDS = (
    256,
    2,
)  # from so many ranks on, what goes message by message is run so often
NUM_TIMEOUTS = 200_000


def ring_records(rounds: int, simgrid: SimGrid | None, *, is_large: bool) -> list[Record]:
    """Measure the ring on every number of ranks."""
    most = MOST_LARGE if is_large else MOST
    return [record for ranks in RANKS for record in _of_ranks(ranks, rounds, simgrid, most)]


def floor_record(rounds: int) -> Record:
    """Measure what SimPy itself does in a second: timeouts, each after the other."""
    taken = [_cpu(lambda: simpy_floor.timeouts(NUM_TIMEOUTS))[0] for _ in range(rounds)]
    return {
        "kind": "timeouts", "what": "floor: bare SimPy timeouts", "ranks": 1, "messages": NUM_TIMEOUTS,
        "seconds": asdict(spread(taken)),
        "messages_per_s": asdict(spread([NUM_TIMEOUTS / each for each in taken])),
    }  # fmt: skip


def _of_ranks(
    ranks: int, rounds: int, simgrid: SimGrid | None, most: dict[str, int]
) -> Iterator[Record]:
    contenders, slow = _contenders(ranks, simgrid, most)
    returned = interleave(contenders, range(rounds))
    returned |= interleave(slow, range(min(rounds, SLOW_ROUNDS) if ranks >= SLOW_RANKS else rounds))
    seconds = {name: [took_s for took_s, _ in turns] for name, turns in returned.items()}
    messages = num_messages(ranks)
    for name, turns in returned.items():
        own, answer_s = seconds[name], turns[-1][1]
        yield {
            "kind": "ring", "what": name, "ranks": ranks, "messages": messages, "rounds": len(own),
            "seconds": asdict(spread(own)),
            "messages_per_s": asdict(spread([messages / each for each in own])),
            "answer_s": answer_s, "rel_error": answer_s / exact_s(ranks) - 1,
            "time_over_floor": asdict(ratio(own, seconds[FLOOR][: len(own)])),
        }  # fmt: skip


def _contenders(
    ranks: int, simgrid: SimGrid | None, most: dict[str, int]
) -> tuple[dict[str, Callable[[object], tuple[float, float]]], dict[str, Any]]:
    """Return what takes all ranks at once, and what takes one message after another."""
    program, machine = ring_program(ranks), flat_machine()
    what = (ranks, NBYTES, ALPHA_S, BYTES_PER_S)

    def costs() -> Costs:
        return Costs(machine, program.mesh, 1)

    def arrays() -> float:
        return simulated(program, costs(), Engine.ARRAYS, one_lane=False).step_time_s

    def events() -> float:
        return simulate(expand(program), costs(), one_lane=False).step_time_s

    at_once: dict[str, Answer] = {
        SOLVE: lambda: solve(program, costs(), one_lane=False).step_time_s,
        ARRAYS: arrays,
        FLOOR: partial(numpy_ring.ring, *what),
    }
    one_by_one: dict[str, Answer] = {EVENTS: events, SIMPY: partial(simpy_ring.ring, *what)}
    slow = {name: _turn(call) for name, call in one_by_one.items() if ranks <= most[name]}
    if simgrid is not None and ranks <= most[SIMGRID]:
        slow[SIMGRID] = lambda _: simgrid.run(*what)
    return {name: _turn(call) for name, call in at_once.items()}, slow


def _turn(call: Answer) -> Callable[[object], tuple[float, float]]:
    return lambda _: _cpu(call)


def _cpu(call: Answer) -> tuple[float, float]:
    """Return the mean CPU seconds of as many calls as a turn holds, and the answer."""
    start_s, num_calls = process_time(), 0
    while num_calls == 0 or process_time() - start_s < LEAST_S:
        answer = call()
        num_calls += 1
    return (process_time() - start_s) / num_calls, answer
