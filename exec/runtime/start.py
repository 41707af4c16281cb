"""Where in an epoch a training starts, and what it calls on the way."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """Where in an epoch a training goes on: after ``samples`` of its order, in ``steps`` batches.

    The turns of an epoch are those of one that begins at ``planned_from``. ``losses`` are the sums
    of each loss of this rank's programs, ``carried_loss`` that of all ranks under other plans, and
    ``time_s`` what the epoch has taken.
    """

    samples: int = 0
    steps: int = 0
    planned_from: int = 0
    losses: tuple[tuple[float, ...], ...] = ()
    carried_loss: float = 0.0
    time_s: float = 0.0


Between = Callable[[int, int], float]
"""Called between two turns with the epoch's steps and samples so far; returns how long it took."""
