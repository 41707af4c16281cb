"""What an engine answers."""

from dataclasses import dataclass

from exec.program.timeline import Span


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The time of a step, the compute in it on the rank that has most, and perhaps its spans."""

    step_time_s: float
    compute_s: float
    spans: tuple[Span, ...] = ()
