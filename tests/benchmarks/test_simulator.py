"""The floor of the simulator's table is the same ring, and its rows are of the case they say."""

import numpy_ring
import pytest
import simpy_floor
from folded_worlds import STAGES, _step
from ring import ALPHA_S, BYTES_PER_S, NBYTES, exact_s
from simulator import num_rings
from simulator_rings import ARRAYS, EVENTS, FLOOR, SIMPY, SOLVE, _of_ranks

RING = (NBYTES, ALPHA_S, BYTES_PER_S)


@pytest.mark.parametrize(("ranks", "replicas"), [(2, 1), (16, 1), (64, 7), (64, 300)])
def test_the_floor_answers_what_the_form_says(ranks: int, replicas: int) -> None:
    assert numpy_ring.ring(ranks, *RING, replicas) == pytest.approx(exact_s(ranks), rel=1e-12)


def test_bare_timeouts_are_as_many_as_were_asked() -> None:
    assert simpy_floor.timeouts(7) == 7.0


def test_all_contenders_answer_the_same_ring() -> None:
    found = list(_of_ranks(16, 1, None, {EVENTS: 16, SIMPY: 16}))
    assert {row["what"] for row in found} == {SOLVE, ARRAYS, EVENTS, SIMPY, FLOOR}
    assert all(row["rel_error"] == pytest.approx(0, abs=1e-12) for row in found)
    assert next(row for row in found if row["what"] == FLOOR)["time_over_floor"]["median"] == 1.0


def test_beyond_their_most_ranks_only_what_takes_all_at_once_runs() -> None:
    found = list(_of_ranks(16, 1, None, {EVENTS: 15, SIMPY: 15}))
    assert {row["what"] for row in found} == {SOLVE, ARRAYS, FLOOR}


def test_folded_worlds_are_told_by_events_of_one_replica() -> None:
    few, many = _step(2 * STAGES), _step(8 * STAGES)
    assert few.simulated[0].startswith(f"events: one for each rank like it, {STAGES} of {2 * STAGES}")  # fmt: skip
    assert many.simulated[0].startswith(f"events: one for each rank like it, {STAGES} of {8 * STAGES}")  # fmt: skip


def test_a_step_has_a_ring_for_each_bucket() -> None:
    assert num_rings("784-512-26", 8) >= 1
    assert num_rings("resnet18", 8) > num_rings("784-512-26", 8)
