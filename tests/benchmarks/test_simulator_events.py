"""The benchmark of events counts what is sent, and its ring by hand is exact."""

import pytest
from ring import ALPHA_S, BYTES_PER_S, NBYTES, exact_s, ring_program
from ring import num_messages as ring_messages
from simpy_ring import ring
from simulator_events import num_messages

from exec.plan.collectives import expand


@pytest.mark.parametrize("ranks", [2, 8, 16])
def test_a_ring_is_counted_and_timed_as_its_form_says(ranks: int) -> None:
    assert num_messages(expand(ring_program(ranks))) == ring_messages(ranks)
    assert ring(ranks, NBYTES, ALPHA_S, BYTES_PER_S) == pytest.approx(exact_s(ranks), rel=1e-12)
