"""When checkpoints are written: laws of the interval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.runtime.checkpoint.interval import FIRST_STEPS, Interval

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8)


def due_steps(interval: Interval, start: int, stop: int, step_time_s: float = 1.0) -> list[int]:
    """Return the steps from ``start`` to ``stop`` at which ``interval`` is due."""
    interval.start(start)
    due = []
    for step in range(start + 1, stop + 1):
        if interval.is_due(step):
            due.append(step)
            interval.agree(step, [step_time_s])
    return due


@given(st.integers(1, 20), st.integers(0, 100))
def test_every_k_steps_is_at_its_multiples_wherever_the_training_resumes(
    k: int, start: int
) -> None:
    expected = [step for step in range(start + 1, start + 101) if step % k == 0]
    assert due_steps(Interval(every_steps=k), start, start + 100) == expected


@given(st.floats(1e-3, 1e6), times, st.integers(0, 1000))
def test_every_t_seconds_is_at_most_t_of_the_slowest_rank_and_at_least_one_step(
    every_s: float, step_times_s: list[float], step: int
) -> None:
    interval = Interval(every_s=every_s)
    interval.start(step)
    assert interval.due == step + FIRST_STEPS
    interval.agree(interval.due, step_times_s)
    steps, slowest = interval.due - step - FIRST_STEPS, max(step_times_s)
    assert steps >= 1
    assert steps == 1 or steps * slowest <= every_s * (1 + 1e-12)
    assert (steps + 1) * slowest > every_s * (1 - 1e-12)


def test_with_both_the_sooner_comes_first() -> None:
    assert due_steps(Interval(every_steps=10, every_s=4.0), 0, 30) == [
        8,
        10,
        14,
        18,
        20,
        24,
        28,
        30,
    ]


@pytest.mark.parametrize(
    "options", [{"every_steps": 0}, {"every_s": 0.0}, {"every_s": float("nan")}]
)
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="greater than 0"):
        Interval(**options)  # type: ignore[arg-type]  # by name
    with pytest.raises(ValueError, match="got neither"):
        Interval()
