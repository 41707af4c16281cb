"""When to write a checkpoint: every so many steps, or every so many seconds.

Seconds are turned into steps whenever a checkpoint is written and the ranks talk anyway, so no
other step needs a message. J. Mohan et al., "CheckFreq", FAST 2021, likewise picks the frequency
from measured steps.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from exec.errors import UsageError
from exec.workload import positive

FIRST_STEPS = 8
"""After so many steps the time of one is known well enough to count in."""


@dataclass(slots=True)
class Interval:
    """Write after step ``due``; all ranks hold the same numbers.

    With ``every_steps``, at its multiples, so that a resumed training writes at the same steps as
    one that was never stopped. With ``every_s``, first after ``FIRST_STEPS`` steps, then after as
    many as the slowest rank does in that time, writing not counted. With both, at what comes first.

    >>> interval = Interval(every_s=60.0)
    >>> interval.start(0), interval.due
    (None, 8)
    >>> interval.agree(8, [0.5, 0.6]), interval.due
    (None, 108)
    """

    every_steps: int | None = None
    every_s: float | None = None
    due: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            positive("checkpoint-steps", self.every_steps)
        if self.every_s is not None:
            positive("checkpoint-seconds", self.every_s)
        if self.every_steps is None and self.every_s is None:
            raise ValueError("an interval must have every_steps or every_s, got neither")

    def start(self, step: int) -> None:
        """Begin with ``step`` steps done."""
        self._next(step, FIRST_STEPS)

    def is_due(self, step: int) -> bool:
        """Say whether a checkpoint is to be written now that ``step`` steps are done."""
        return step >= self.due

    def agree(self, step: int, step_times_s: Sequence[float]) -> None:
        """Choose when to write next; ``step_times_s`` are those of every rank, on every rank.

        With ``every_s`` they must be greater than zero.
        """
        steps = 0 if self.every_s is None else int(self.every_s / max(step_times_s))
        self._next(step, max(steps, 1))

    def _next(self, step: int, by_time: int) -> None:
        dues = [] if self.every_s is None else [step + by_time]
        if self.every_steps is not None:
            dues.append((step // self.every_steps + 1) * self.every_steps)
        self.due = min(dues)


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_interval(text: str) -> Interval | None:
    """Return the interval that ``text`` spells, None for the end of each epoch.

    >>> parse_interval("5m").every_s, parse_interval("500").every_steps, parse_interval("epoch")
    (300.0, 500, None)
    """
    if text == "epoch":
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0 or ("." in match[1] and not match[2]):
        raise UsageError(
            f"checkpoint-every must be steps such as 500, a time such as 30s or 5m, or epoch, "
            f"got {text!r}"
        )
    if not match[2]:
        return Interval(every_steps=int(match[1]))
    return Interval(every_s=float(match[1]) * _SECONDS[match[2]])
