"""The communication lane of a rank: its ops in order, moved on whenever it is looked at.

CPU MPI makes progress only inside MPI calls, so the lane is polled between compute ops, and
driven to the end of an op when the compute lane waits for it. No thread is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from exec.program.ops import Lane
from exec.program.timeline import Span
from exec.transport.protocol import Request


@dataclass(frozen=True, slots=True)
class CommStep:
    """One op of the lane.

    ``start`` begins it and returns what to wait for, or None if it is already done; ``run`` does
    it whole. ``gate`` is the number of compute calls that must be behind (a ``Wait`` for one).
    """

    name: str
    start: Callable[[], Request | None]
    run: Callable[[], object]
    gate: int = 0


@dataclass(slots=True)
class CommLane:
    """The steps of one training step; ``spans`` collects times while it is a list."""

    rank: int
    steps: list[CommStep]
    spans: list[Span] | None = None
    _head: int = 0
    _request: Request | None = None
    _started_s: float = field(default=0.0)

    def reset(self) -> None:
        """Return to the first step."""
        self._head = 0

    def poll(self, num_computed: int) -> None:
        """Move on as far as is possible without waiting."""
        steps = self.steps
        while self._head < len(steps):
            if self._request is None:
                step = steps[self._head]
                if step.gate > num_computed:
                    return
                self._started_s = perf_counter()
                self._request = step.start()
            if self._request is not None:
                if not self._request.Test():
                    return
                self._request = None
            self._advance()

    def run_through(self, last: int) -> None:
        """Return when step ``last``, and all before it, are done."""
        steps = self.steps
        if self.spans is None and self._request is None:
            for step in steps[self._head : last + 1]:
                step.run()
            self._head = max(self._head, last + 1)
            return
        while self._head <= last:
            if self._request is not None:
                self._request.Wait()
                self._request = None
            else:
                self._started_s = perf_counter()
                steps[self._head].run()
            self._advance()

    def _advance(self) -> None:
        if self.spans is not None and (name := self.steps[self._head].name):
            self.spans.append(Span(self.rank, Lane.COMM, name, self._started_s, perf_counter()))
        self._head += 1
