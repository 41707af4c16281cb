"""Which samples of a batch each trainer has, and each of its microbatches."""

from exec.plan.options import PlanOptions
from exec.program.peers import split_size, split_start


def sample_starts(num_trainers: int, options: PlanOptions, batch: int, place: int) -> tuple[int, ...]:  # fmt: skip
    """Return where in the global batch each microbatch of the trainer at ``place`` begins."""
    start, rows = split_start(batch, num_trainers, place), split_size(batch, num_trainers, place)
    count = options.num_microbatches
    return tuple(start + split_start(rows, count, i) for i in range(count))


def image_starts(
    num_trainers: int, options: PlanOptions, batch: int, place: int, tp: int, tp_rank: int
) -> tuple[int, ...]:
    """Return where the images of each microbatch begin for one of ``tp`` ranks that share them."""
    starts = sample_starts(num_trainers, options, batch, place)
    rows = microbatch_rows(num_trainers, options, batch, place)
    return tuple(
        start + split_start(each, tp, tp_rank) for start, each in zip(starts, rows, strict=True)
    )


def microbatch_rows(num_trainers: int, options: PlanOptions, batch: int, place: int) -> tuple[int, ...]:  # fmt: skip
    """Return how many samples of a global batch are in each microbatch of the trainer at ``place``."""
    rows, count = split_size(batch, num_trainers, place), options.num_microbatches
    return tuple(split_size(rows, count, i) for i in range(count))


def shared_rows(num_trainers: int, options: PlanOptions, batch: int) -> tuple[int, ...]:
    """Return how many samples all trainers together have in each microbatch."""
    rows = (microbatch_rows(num_trainers, options, batch, place) for place in range(num_trainers))
    return tuple(map(sum, zip(*rows, strict=True)))
