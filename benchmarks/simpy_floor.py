"""The floor of events: SimPy's timeouts one after the other, and nothing else."""

from collections.abc import Generator

import simpy


def timeouts(count: int) -> float:
    """Return the seconds simulated in ``count`` timeouts of a second each."""
    env = simpy.Environment()

    def process() -> Generator[simpy.Event, None, None]:
        for _ in range(count):
            yield env.timeout(1.0)

    env.process(process())
    env.run()
    return float(env.now)
