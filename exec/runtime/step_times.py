"""Step times of an epoch whose steps may differ."""

from collections.abc import Sequence

from exec.plan.segment import Segment


def mean_step_times_s(
    recorded: Sequence[tuple[Segment, Sequence[float]]], batch: int
) -> list[float]:
    """Return times of a ``batch`` from those of each segment's program, as they were ``recorded``.

    Short batches do not count. Of a strategy whose steps differ, each time is the mean over an
    epoch like the run's, with the runs of each program drawn in their order.
    """
    first = recorded[0][0]
    samples: dict[int, int] = {}
    times_s: dict[int, Sequence[float]] = {}
    for segment, own_s in recorded:
        if segment.samples % batch == 0 or segment.program is first.program:
            key = id(segment.program)
            samples[key] = samples.get(key, 0) + segment.times * segment.samples
            times_s[key] = own_s
    if not all(times_s.values()):
        return []
    total, count = sum(samples.values()), max(map(len, times_s.values()))
    return [
        sum(samples[key] / total * own_s[i % len(own_s)] for key, own_s in times_s.items())
        * batch / first.samples
        for i in range(count)
    ]  # fmt: skip
