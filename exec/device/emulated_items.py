"""What the emulated device's streams hold: work, and events that are recorded or waited for."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exec.device.emulated_scheduler import SCHEDULER, Owner, Queue
from exec.device.emulated_work import Work

if TYPE_CHECKING:
    from exec.device.emulated_graph import Capture

CAPTURING: set[int] = set()
"""The threads that capture."""


def check_not_capturing(what: str) -> None:
    """Raise if this thread captures: nothing is done meanwhile that it could wait for."""
    if CAPTURING and threading.get_ident() in CAPTURING:
        raise RuntimeError(f"a capture must not {what}")


class EmulatedEvent:
    """A point in a stream, or in a capture: that never comes to pass."""

    def __init__(
        self, queue: Queue, *, is_timed: bool = False, capture: "Capture | None" = None
    ) -> None:
        self.queue = queue
        self.is_timed = is_timed
        self.is_passed = False
        self.passed_s = 0.0
        self.capture = capture
        self.behind: dict[Queue, int] = {}

    def is_done(self) -> bool:
        """Say whether the stream has come past it."""
        self._check()
        if not self.is_passed:
            SCHEDULER.help_along(self.queue.owner)
        return self.is_passed

    def synchronize(self) -> None:
        """Return when it has."""
        self._check()
        if not self.is_passed:
            SCHEDULER.wait(self.queue.owner, lambda: self.is_passed, lambda: [self.queue])

    def _check(self) -> None:
        check_not_capturing("ask for an event")
        if self.capture is not None:
            raise RuntimeError("event must have been recorded outside a capture")


@dataclass(slots=True)
class Run:
    """Work of a stream."""

    work: Work

    def is_ready(self) -> bool:
        """Say yes."""
        return True

    def run(self) -> object:
        """Do it."""
        return self.work()

    def given_to(self, queue: Queue) -> "Run":  # noqa: ARG002  # none is like another
        """Return itself."""
        return self

    def blockers(self) -> Iterable[Queue | Owner]:
        """Return nothing."""
        return ()


@dataclass(slots=True)
class Pass:
    """An event that was recorded."""

    event: EmulatedEvent

    def is_ready(self) -> bool:
        """Say yes."""
        return True

    def run(self) -> None:
        """Let it have come to pass."""
        if self.event.is_timed:
            self.event.passed_s = time.perf_counter()
        self.event.is_passed = True

    def given_to(self, queue: Queue) -> "Pass":  # noqa: ARG002  # none is like another
        """Return itself."""
        return self

    def blockers(self) -> Iterable[Queue | Owner]:
        """Return nothing."""
        return ()


@dataclass(slots=True)
class Await:
    """An event that is waited for."""

    event: EmulatedEvent

    def is_ready(self) -> bool:
        """Say whether it has come to pass."""
        return self.event.is_passed

    def run(self) -> None:
        """Go on."""

    def given_to(self, queue: Queue) -> "Await":  # noqa: ARG002  # none is like another
        """Return itself."""
        return self

    def blockers(self) -> Iterable[Queue | Owner]:
        """Return where it was recorded."""
        return (self.event.queue,)
