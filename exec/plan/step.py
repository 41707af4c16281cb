"""The synchronous step: one program for any ``dp x pp x tp`` mesh.

Every synchronous strategy is a mesh: ``serial`` is 1x1x1, ``data`` px1x1, ``pipeline`` 1xpx1,
``tensor`` 1x1xp, and ``hybrid`` whatever its factors. Replicas all-reduce their gradients, or add
them up in windows of shared memory.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from exec.plan.options import PlanOptions
from exec.plan.passes import passed, passes
from exec.plan.segment import Segment
from exec.plan.window import reduce_and_update, window_size
from exec.plan.writer import (
    Writer,
    finish_sends,
    reduce_bucket,
    replica_axes,
    trainer_roles,
    update,
)
from exec.program.mesh import Mesh
from exec.program.ops import Lane, Op, Wait
from exec.program.peers import Part
from exec.program.program import Program
from exec.workload import Workload


def plan_synchronous(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return the steps of an epoch: full batches, and perhaps a last, smaller one."""
    batch = workload.global_batch
    full, last = divmod(num_samples, batch)
    segments = [Segment(plan_step(workload, mesh, options), full, batch)] if full else []
    if last:
        smaller = replace(workload, global_batch=last)
        segments.append(Segment(plan_step(smaller, mesh, options), 1, last))
    return tuple(segments)


@lru_cache(maxsize=64)  # a search asks for the plan that it chose again
def plan_step(workload: Workload, mesh: Mesh, options: PlanOptions = PlanOptions()) -> Program:
    """Return the program of one training step of ``workload`` on ``mesh``.

    Each gradient is divided by the *global* batch, so the all-reduced sum is the serial gradient.
    """
    roles = trainer_roles(workload, mesh, options, _ops)
    size = window_size(mesh, options)
    sharers = size if 1 < size < mesh.dp else 0
    return Program(mesh, workload.itemsize, tuple(roles), is_shared=size > 1, sharers=sharers)


def _ops(stage: Writer) -> Iterator[Op]:
    if window_size(stage.mesh, stage.options) > 1:
        yield from passes(stage)
        yield from reduce_and_update(stage)
        yield from finish_sends(stage)
        return
    found = [each for each in buckets(stage) if replica_axes(stage, each[1])]
    if stage.options.overlap:
        yield from passes(stage, {lowest: (id, part) for id, lowest, part in found})
    else:
        yield from passes(stage)
        for i, (id, _, part) in enumerate(found):
            if i == 0:
                yield Wait(Lane.COMM, passed(stage))
            yield from reduce_bucket(stage, id, part)
    for id, _, _ in found:
        yield Wait(Lane.COMPUTE, id)
    yield update(stage)
    yield from finish_sends(stage)


def buckets(stage: Writer) -> list[tuple[str, int, Part]]:
    """Return ``(id, lowest node, part)`` of each gradient bucket, the last nodes first."""
    found: list[tuple[str, int, Part]] = []
    stop = start = stage.layout.num_parameters
    for shard in reversed(stage.layout.shards):
        if not shard.num_parameters:
            continue
        start -= shard.num_parameters
        is_full = (stop - start) * stage.workload.itemsize >= stage.options.bucket_nbytes
        if is_full or start in (0, stage.layout.num_before_exchange):
            found.append((f"bucket{len(found)}", shard.node, Part("grad", start, stop)))
            stop = start
    return found
