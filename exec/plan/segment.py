"""A segment of an epoch: a program, how often it is done, and the samples it takes each time."""

from dataclasses import dataclass

from exec.program.program import Program


@dataclass(frozen=True, slots=True)
class Segment:
    """``program`` done ``times`` times, on the next ``samples`` training samples each time."""

    program: Program
    times: int
    samples: int
