"""Laws of the pipeline schedules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.plan.schedule import Schedule, microbatch_order, num_slots

SETTINGS = settings(derandomize=True, deadline=None, max_examples=200)
STAGES = st.integers(1, 8).flatmap(lambda s: st.tuples(st.integers(0, s - 1), st.just(s)))
MICROBATCHES = st.integers(1, 12)


def held(order: list[tuple[bool, int]]) -> list[int]:
    """Return how many microbatches are in flight after each step of ``order``."""
    counts, count = [], 0
    for is_forward, _ in order:
        count += 1 if is_forward else -1
        counts.append(count)
    return counts


@SETTINGS
@given(st.sampled_from(Schedule), STAGES, MICROBATCHES)
def test_each_microbatch_goes_forward_once_and_then_backward_once(
    schedule: Schedule, stage: tuple[int, int], count: int
) -> None:
    order = microbatch_order(schedule, *stage, count)
    assert sorted(order) == sorted((way, i) for way in (True, False) for i in range(count))
    for i in range(count):
        assert order.index((True, i)) < order.index((False, i))


@SETTINGS
@given(st.sampled_from(Schedule), STAGES, MICROBATCHES)
def test_microbatches_keep_their_order(
    schedule: Schedule, stage: tuple[int, int], count: int
) -> None:
    order = microbatch_order(schedule, *stage, count)
    for way in (True, False):
        assert [i for is_forward, i in order if is_forward is way] == list(range(count))


@SETTINGS
@given(STAGES, MICROBATCHES)
def test_1f1b_never_holds_more_than_s_activations(stage: tuple[int, int], count: int) -> None:
    index, stages = stage
    order = microbatch_order(Schedule.ONE_F_ONE_B, index, stages, count)
    assert max(held(order)) == min(stages - index, count)


@SETTINGS
@given(STAGES, MICROBATCHES)
def test_gpipe_holds_all_activations(stage: tuple[int, int], count: int) -> None:
    assert max(held(microbatch_order(Schedule.GPIPE, *stage, count))) == count


@SETTINGS
@given(st.sampled_from(Schedule), STAGES, MICROBATCHES)
def test_slots_are_what_the_order_holds(
    schedule: Schedule, stage: tuple[int, int], count: int
) -> None:
    order = microbatch_order(schedule, *stage, count)
    assert num_slots(schedule, *stage, count) == max(held(order))


@pytest.mark.parametrize("schedule", Schedule)
def test_one_stage_with_one_microbatch_is_a_plain_step(schedule: Schedule) -> None:
    assert microbatch_order(schedule, 0, 1, 1) == [(True, 0), (False, 0)]
