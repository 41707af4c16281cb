"""The pacer of a rank: lets each op last until its deadline, asleep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, sleep

from exec.program.ops import Accumulate, Compute, Kernel, Op, Scale, Shape
from exec.runtime.kernels import Call
from exec.runtime.lane import CommStep
from exec.runtime.pace import Pacing

_SPUN_S = 60e-6
"""How early a sleep must end, since a sleeper wakes late; the rest is spun."""


@dataclass(slots=True)
class Pacer:
    """The deadlines of one rank, which computes ``slowness`` times as long as the pace says.

    Deadlines of compute ops add up from the beginning of the turn, or from the end of the last
    wait, so that late awakenings do not. The sums of received numbers, which are no work of the
    compute lane, have deadlines of their own; neither slowness nor noise is on them. In turns
    that took ``turns_s`` in all, waits and ends came ``late_s`` after the deadline before them: the
    cores were too few.
    """

    pacing: Pacing
    seed: int
    rank: int
    slowness: float = 1.0
    turns: int = 0
    turns_s: float = 0.0
    late_s: float = 0.0
    _factor: float = 1.0
    _began_s: float = field(default=0.0)
    _deadline_s: float = field(default=0.0)

    def begin(self) -> None:
        """Begin a turn."""
        noise = self.pacing.noise
        drawn = noise.factor(self.seed, self.rank, self.turns) if noise else 1.0
        self._factor = self.slowness * drawn
        self.turns += 1
        self._began_s = self._deadline_s = perf_counter()

    def end(self) -> None:
        """End a turn."""
        self._note()
        self.turns_s += perf_counter() - self._began_s

    def _note(self) -> None:
        """Note how late the last deadline was met."""
        self.late_s += max(0.0, perf_counter() - self._deadline_s)

    def compute(self, op: Compute, call: Call) -> Call:
        """Return ``call``, which does ``op``, made to last until its deadline."""
        time_s = self.pacing.pace.time_s(op.kernel, op.shape)

        def padded() -> None:
            call()
            self._deadline_s += time_s * self._factor
            sleep_until(self._deadline_s)

        return padded

    def waited(self, call: Call) -> Call:
        """Return ``call``, which waits, such that the next op begins when it returns."""

        def wait() -> None:
            self._note()
            call()
            self._deadline_s = perf_counter()

        return wait

    def comm(self, op: Op, step: CommStep) -> CommStep:
        """Return ``step``, which does ``op``, made to last if it adds or scales numbers."""
        match op:
            case Accumulate(part) | Scale(part):
                shape = Shape(0, 0, part.size)
                time_s = self.pacing.pace.time_s(Kernel.ACCUMULATE, shape)
                return _lasting(step, time_s)
            case _:
                return step

    def paced_calls(self, calls: Sequence[Call], are_waits: Sequence[bool]) -> list[Call]:
        """Return the ``calls`` of a turn, begun and ended, and resumed behind each wait."""
        resumed = [self.waited(call) if is_wait else call for call, is_wait in zip(calls, are_waits, strict=True)]  # fmt: skip
        return [self.begin, *resumed, self.end]


@dataclass(slots=True)
class _Until:
    """A request that is done at its deadline."""

    deadline_s: float

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        return perf_counter() >= self.deadline_s

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        sleep_until(self.deadline_s)


def _lasting(step: CommStep, time_s: float) -> CommStep:
    """Return a local ``step`` that takes ``time_s``."""

    def start() -> _Until:
        deadline_s = perf_counter() + time_s
        step.run()
        return _Until(deadline_s)

    run: Callable[[], None] = lambda: start().Wait()  # noqa: E731  # as in exec.runtime.comm
    return CommStep(step.name, start, run, step.gate)


def sleep_until(deadline_s: float) -> None:
    """Return at ``deadline_s`` of the clock of :func:`time.perf_counter`, or at once if it is past."""
    left_s = deadline_s - perf_counter()
    if left_s > _SPUN_S:
        sleep(left_s - _SPUN_S)
    while perf_counter() < deadline_s:
        pass
