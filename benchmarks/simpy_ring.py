"""The ring all-reduce as one would write it in SimPy by hand, for speed: callbacks and counters.

It knows that every message finds its links free, has no lanes, no costs and no program: what is left
is SimPy's own time, three events a message.
"""

from collections.abc import Callable

import simpy


def ring(ranks: int, nbytes: int, alpha_s: float, bytes_per_s: float) -> float:
    """Return the seconds simulated."""
    env = simpy.Environment()
    steps, chunk_s = 2 * (ranks - 1), nbytes / ranks / bytes_per_s
    sent, received, begun = [0] * ranks, [0] * ranks, [0] * ranks
    starts: list[Callable[[object], None]] = []
    ends: list[Callable[[object], None]] = []
    goes: list[Callable[[object], None]] = []

    def bind(rank: int) -> None:
        right = (rank + 1) % ranks

        def go(_: object) -> None:
            if begun[rank] < steps and begun[rank] == sent[rank] == received[rank]:
                begun[rank] += 1
                env.timeout(alpha_s).callbacks.append(starts[rank])

        def start(_: object) -> None:
            env.timeout(chunk_s).callbacks.append(ends[rank])

        def end(_: object) -> None:
            sent[rank] += 1
            received[right] += 1
            go(None)
            told = env.event()
            told.callbacks.append(goes[right])
            told.succeed()

        goes.append(go)
        starts.append(start)
        ends.append(end)

    for rank in range(ranks):
        bind(rank)
    for go in goes:
        go(None)
    env.run()
    return float(env.now)
