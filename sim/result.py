"""What an engine answers."""

from dataclasses import dataclass

from exec.program.timeline import Span


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The time of a step, the compute in it on the rank that has most, and perhaps its spans.

    Where ``upper_s`` is given the step has no closed form: it takes at least ``step_time_s`` and
    at most ``upper_s``. ``arrivals`` are the senders of what servers took from any rank, in order.
    ``simulated`` says by what the times were simulated, if they were.
    """

    step_time_s: float
    compute_s: float
    spans: tuple[Span, ...] = ()
    upper_s: float | None = None
    arrivals: tuple[int, ...] = ()
    simulated: tuple[str, ...] = ()

    def times(self, factor: float) -> "StepTimes":
        """Return the times of so many steps, without spans."""
        upper_s = None if self.upper_s is None else self.upper_s * factor
        return StepTimes(self.step_time_s * factor, self.compute_s * factor, (), upper_s, self.arrivals, self.simulated)  # fmt: skip

    def then(self, other: "StepTimes") -> "StepTimes":
        """Return the times of this and then ``other``."""
        upper_s = None
        if self.upper_s is not None or other.upper_s is not None:
            upper_s = (self.upper_s or self.step_time_s) + (other.upper_s or other.step_time_s)
        return StepTimes(self.step_time_s + other.step_time_s, self.compute_s + other.compute_s,
                         self.spans + other.spans, upper_s, self.arrivals + other.arrivals,
                         tuple(dict.fromkeys(self.simulated + other.simulated)))  # fmt: skip
