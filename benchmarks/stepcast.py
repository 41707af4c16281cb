"""A turn of the executor: its steps as ``exec.train`` runs them, one in some with clocks around every op."""

from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exec.runtime.session import TIMED_EVERY, Session


def stepcast_turn(session: Session, batches: list[NDArray[np.integer[Any]]]) -> float:
    """Train on the first batch untimed, then on the others; return their seconds."""
    session.do_step(batches[0])
    start_s = perf_counter()
    for i, indices in enumerate(batches[1:]):
        session.do_step(indices, is_timed=i % TIMED_EVERY == TIMED_EVERY - 1)
    took_s = perf_counter() - start_s
    session.spans.clear()
    return took_s
