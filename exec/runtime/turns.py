"""How long turns take: by the host's clock, or by a device's, which the host runs ahead of."""

from collections import deque
from time import perf_counter
from typing import Protocol

from exec.device.protocol import Event, Stream

AHEAD = 64
"""How many turns the host may be ahead of a device."""


class TurnClock(Protocol):
    """Times one turn after the other."""

    def start(self) -> None:
        """Let the next turn begin now."""
        ...

    def end_turn(self, times_s: list[float] | None) -> None:
        """Note the end of a turn, whose time goes to ``times_s``, perhaps later."""
        ...

    def settle(self) -> None:
        """Return when all turns are over and their times known."""
        ...


class HostClock:
    """The clock of turns that are over when their last call returns."""

    def __init__(self) -> None:
        self._before_s = perf_counter()

    def start(self) -> None:
        """Let the next turn begin now."""
        self._before_s = perf_counter()

    def end_turn(self, times_s: list[float] | None) -> None:
        """Note the end of a turn."""
        now_s = perf_counter()
        if times_s is not None:
            times_s.append(now_s - self._before_s)
        self._before_s = now_s

    def settle(self) -> None:
        """Do nothing: they are."""


class DeviceClock:
    """The clock of turns that a stream does later."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._last = stream.record(is_timed=True)
        self._pending: deque[tuple[Event, Event, list[float] | None]] = deque()

    def start(self) -> None:
        """Let the next turn begin when all before it is done."""
        self._last = self._stream.record(is_timed=True)

    def end_turn(self, times_s: list[float] | None) -> None:
        """Note the end of a turn; wait for older ones if the host is too far ahead."""
        event = self._stream.record(is_timed=True)
        self._pending.append((self._last, event, times_s))
        self._last = event
        if len(self._pending) > AHEAD:
            self._settle(AHEAD // 2)

    def settle(self) -> None:
        """Return when all turns are over and their times known."""
        self._settle(0)

    def _settle(self, num_left: int) -> None:
        while len(self._pending) > num_left:
            before, after, times_s = self._pending.popleft()
            after.synchronize()
            if times_s is not None:
                times_s.append(self._stream.device.elapsed_s(before, after))
