"""The clock of a simulation: who knows what happens next, and who has a lock. SimPy's is the one."""

from collections.abc import Callable
from typing import Any, Protocol

import simpy


class Clock(Protocol):
    """Who knows what happens next, and who has a lock."""

    def set_alarm(self, time_s: float) -> None:
        """Call :meth:`World.wake` with ``time_s`` then."""

    def acquire(self, rank: int, name: str, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` when ``rank`` has the lock ``name``."""

    def release(self, rank: int, name: str) -> None:
        """Let go of the lock ``name``, which ``rank`` has."""


class SimPyClock:
    """SimPy's events, in the words of :class:`Clock`."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        self.wake: Callable[[float], object] = float  # the world's
        self.locks: dict[str, simpy.Resource] = {}
        self.holding: dict[tuple[int, str], Any] = {}

    def set_alarm(self, time_s: float) -> None:
        """Wake the world at ``time_s``: it is told this number, which SimPy's sum may round."""
        env = self.env
        delay_s = time_s - env.now
        timeout = simpy.Timeout(env, max(0.0, delay_s), time_s)
        timeout.callbacks.append(self._ring)

    def _ring(self, timeout: Any) -> None:
        self.wake(timeout.value)

    def acquire(self, rank: int, name: str, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` when ``rank`` has the lock ``name``."""
        if name not in self.locks:
            self.locks[name] = simpy.Resource(self.env)
        request = self.holding[rank, name] = self.locks[name].request()
        request.callbacks.append(lambda _: go_on())

    def release(self, rank: int, name: str) -> None:
        """Let go of the lock ``name``."""
        self.locks[name].release(self.holding.pop((rank, name)))
