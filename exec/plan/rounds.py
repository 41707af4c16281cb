"""Rounds: an epoch cut into stretches of steps that ranks take on their own.

A round begins and ends with messages. Its last step may take a smaller batch, where the epoch's
samples run out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exec.plan.segment import Segment
from exec.program.peers import split_size
from exec.program.program import Program


@dataclass(frozen=True, slots=True)
class Round:
    """``num_full`` steps on ``batch`` samples, then, if ``last`` is not 0, one on ``last``."""

    num_full: int
    batch: int
    last: int

    @property
    def samples(self) -> int:
        """The samples of the round, of all ranks together."""
        return self.num_full * self.batch + self.last

    def share(self, num_trainers: int, place: int) -> int:
        """Return the samples of the round that the trainer at ``place`` takes."""
        own = self.num_full * split_size(self.batch, num_trainers, place)
        return own + split_size(self.last, num_trainers, place)

    @property
    def steps(self) -> list[int]:
        """The batch of each step."""
        return [self.batch] * self.num_full + [self.last] * (self.last > 0)


def rounds(num_samples: int, batch: int, every: int) -> list[Round]:
    """Return the rounds of an epoch: of ``every`` steps, 0 for the whole epoch; the last is shorter.

    >>> rounds(100, 10, 4)
    [Round(num_full=4, batch=10, last=0), Round(num_full=4, batch=10, last=0), Round(num_full=2, batch=10, last=0)]
    """
    full, last = divmod(num_samples, batch)
    count = full + (last > 0)
    every = min(every or count, count)
    found = [Round(every, batch, 0)] * (full // every)
    left = full - every * len(found)
    return found + ([Round(left, batch, last)] if left or last else [])


@dataclass(frozen=True, slots=True)
class StepOfRound:
    """One step of ``round`` on ``batch`` samples: whether it is the first, and the last."""

    round: Round
    batch: int
    is_first: bool
    is_last: bool


def plan_rounds(
    num_samples: int, batch: int, every: int, plan: Callable[[StepOfRound], Program]
) -> tuple[Segment, ...]:
    """Return the segments of an epoch whose steps ``plan`` writes; like steps share a program."""
    programs: dict[StepOfRound, Program] = {}
    segments: list[Segment] = []
    for step in _steps(num_samples, batch, every):
        if step not in programs:
            planned = plan(step)
            programs[step] = next((known for known in programs.values() if known == planned), planned)  # fmt: skip
        program = programs[step]
        if segments and segments[-1].program is program:
            segments[-1] = Segment(program, segments[-1].times + 1, step.batch)
        else:
            segments.append(Segment(program, 1, step.batch))
    return tuple(segments)


def _steps(num_samples: int, batch: int, every: int) -> Iterator[StepOfRound]:
    for round in rounds(num_samples, batch, every):
        steps = round.steps
        for i, size in enumerate(steps):
            yield StepOfRound(round, size, i == 0, i == len(steps) - 1)
