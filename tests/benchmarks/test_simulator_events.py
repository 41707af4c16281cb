"""The benchmark of events counts what is sent, and its ring by hand is exact."""

import pytest
from event_cases import SERVED_NBYTES, num_messages, served
from ring import ALPHA_S, BYTES_PER_S, NBYTES, exact_s, flat_machine, ring_program
from ring import num_messages as ring_messages
from simgrid_ring import ROUNDS
from simpy_ring import clock, ring

from exec.plan.collectives import expand
from sim.costs import Costs
from sim.simulate import simulate


@pytest.mark.parametrize("ranks", [2, 8, 16])
def test_a_ring_is_counted_and_timed_as_its_form_says(ranks: int) -> None:
    assert num_messages(expand(ring_program(ranks))) == ring_messages(ranks)
    assert ring(ranks, NBYTES, ALPHA_S, BYTES_PER_S) == pytest.approx(exact_s(ranks), rel=1e-12)


@pytest.mark.parametrize("workers", [1, 5, 12])
def test_round_trips_to_a_server_are_counted_and_timed_as_its_port_says(workers: int) -> None:
    program = served(workers)
    assert num_messages(program) == 2 * workers * ROUNDS
    took_s = simulate(program, Costs(flat_machine(), program.mesh, 1), one_lane=False).step_time_s
    one_way_s = ALPHA_S + workers * SERVED_NBYTES / BYTES_PER_S
    assert took_s == pytest.approx(2 * ROUNDS * one_way_s, rel=1e-12)


def test_the_clock_alone_ticks_as_often_as_it_is_told() -> None:
    assert clock(4, 12) == pytest.approx(3 * 1.003, rel=1e-12)
