"""Shared memory: the ranks of one node train one set of weights, without messages.

``shared_lock`` updates it under a lock, ``hogwild`` without one. Both are asynchronous: a rank
reads whatever weights are there, and its gradient is divided by the whole batch.
``shared_windows`` is synchronous, and what ``data`` does with algorithm shared_window
(:mod:`exec.plan.window`).

Source: F. Niu, B. Recht, C. Re and S. J. Wright, "Hogwild!: a lock-free approach to parallelizing
stochastic gradient descent", NIPS 2011; J. Langford, A. Smola and M. Zinkevich, "Slow learners
are fast", NIPS 2009, for the lock.
"""

from collections.abc import Iterator
from dataclasses import replace

from exec.plan.options import PlanOptions
from exec.plan.passes import passes
from exec.plan.segment import Segment
from exec.plan.strategy import Strategy
from exec.plan.window import reduce_and_update
from exec.plan.writer import Writer, trainer_roles, update
from exec.program.mesh import Mesh
from exec.program.ops import Acquire, Op, Release
from exec.program.program import Program
from exec.workload import Workload


def plan_shared(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return the steps of an epoch."""
    batch = workload.global_batch
    full, last = divmod(num_samples, batch)
    write = _WRITERS[options.strategy]

    def plan(size: int) -> Program:
        part = replace(workload, global_batch=size)
        roles = trainer_roles(part, mesh, options, write)
        return Program(mesh, workload.itemsize, tuple(roles), is_shared=True)

    sizes = [(full, batch)] * (full > 0) + [(1, last)] * (last > 0)
    return tuple(Segment(plan(size), times, size) for times, size in sizes)


def _lock(stage: Writer) -> Iterator[Op]:
    yield from passes(stage)
    yield Acquire("param")
    yield update(stage)
    yield Release("param")


def _hogwild(stage: Writer) -> Iterator[Op]:
    yield from passes(stage)
    yield update(stage)


def _windows(stage: Writer) -> Iterator[Op]:
    yield from passes(stage)
    if stage.mesh.dp == 1:
        yield update(stage)
    else:
        yield from reduce_and_update(stage)


_WRITERS = {
    Strategy.SHARED_LOCK: _lock,
    Strategy.HOGWILD: _hogwild,
    Strategy.SHARED_WINDOWS: _windows,
}
