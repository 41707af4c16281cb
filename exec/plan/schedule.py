"""Pipeline schedules: in which order a stage takes the forward and backward microbatches."""

from enum import StrEnum


class Schedule(StrEnum):
    """The order of microbatches in a pipeline.

    ``gpipe``: all forward, then all backward; Y. Huang et al., "GPipe", NeurIPS 2019.
    ``1f1b``: one forward, one backward as soon as it can, which holds fewer activations;
    D. Narayanan et al., "PipeDream", SOSP 2019, in the flushed form of "Efficient large-scale
    language model training on GPU clusters using Megatron-LM", SC 2021, section 2.2.
    """

    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"


def microbatch_order(
    schedule: Schedule, stage: int, num_stages: int, num_microbatches: int
) -> list[tuple[bool, int]]:
    """Return ``(is_forward, microbatch)`` in the order in which ``stage`` does them.

    >>> microbatch_order(Schedule.ONE_F_ONE_B, 0, 2, 2)
    [(True, 0), (True, 1), (False, 0), (False, 1)]
    >>> microbatch_order(Schedule.ONE_F_ONE_B, 1, 2, 2)
    [(True, 0), (False, 0), (True, 1), (False, 1)]
    """
    num_first = num_slots(schedule, stage, num_stages, num_microbatches)
    order = [(True, i) for i in range(num_first)]
    for i in range(num_microbatches):
        order.append((False, i))
        if num_first + i < num_microbatches:
            order.append((True, num_first + i))
    return order


def num_slots(schedule: Schedule, stage: int, num_stages: int, num_microbatches: int) -> int:
    """Return how many microbatches' activations ``stage`` holds at once."""
    if schedule is Schedule.GPIPE:
        return num_microbatches
    return min(num_stages - stage, num_microbatches)
