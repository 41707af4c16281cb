"""A segment of an epoch: a program, how often it is done, and the samples it takes each time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from exec.program.program import Program


@dataclass(frozen=True, slots=True)
class Segment:
    """``program`` done ``times`` times, on the next ``samples`` training samples each time."""

    program: Program
    times: int
    samples: int

    @property
    def steps(self) -> int:
        """The global batches that one turn stands for: as many as a worker takes tickets."""
        return -(-self.program.tickets // len(self.program.trainers)) or 1


def remaining(segments: Sequence[Segment], samples: int) -> tuple[Segment, ...] | None:
    """Return what is left of ``segments`` after ``samples``; None if that is amid a turn."""
    left: list[Segment] = []
    for segment in segments:
        done = min(segment.times, samples // segment.samples)
        samples -= done * segment.samples
        if done < segment.times:
            if samples:
                return None
            left.append(replace(segment, times=segment.times - done))
    return None if samples else tuple(left)


def programs_of(segments: Iterable[Segment]) -> list[Program]:
    """Return the programs of ``segments``, each once: like segments share theirs."""
    return list({id(each.program): each.program for each in segments}.values())
