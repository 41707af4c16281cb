"""Waits: what noise adds to a step of each strategy, in the mean.

Let a rank compute F c for a step instead of c. Where all ranks meet each step it waits for the
largest F of them, and where they meet every k steps for the largest mean of k
(:mod:`sim.jitter`). A pipeline waits less: its stages are as slow as the slowest of them only while it
is full. With m microbatches of which stage s computes c_s each, a step takes

    T = sum_s F_s c_s + (m - 1) max_s F_s c_s

and no all-reduce ends before the largest T of all replicas. A synchronous server takes the first
gradients while others are still computed: they queue for its link as they come, and then to be
added, in the order of ranks. These two are the means of seeded draws, whose own means are put right.
What goes on at each rank's own pace waits for nobody.

Source: S. M. Johnson, "Optimal two- and three-stage production schedules with setup times included",
Naval Res. Logist. Quart. 1 (1954) 61-68, for jobs that take each stage equally long: the longest way
through a grid of jobs and stages; D. V. Lindley, "The theory of queues with a single server", Proc.
Camb. Phil. Soc. 48 (1952) 277-289.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from exec.noise import Array, Noise
from exec.program.mesh import Mesh
from sim.jitter import expected_max, expected_slowest, largest_of

_ELEMENTS = 1 << 17
_LEAST_DRAWS, _MOST_DRAWS = 128, 1024
_MOST_REPLICAS = 1 << 10
"""How many replicas of a pipeline are drawn; more are as much slower as they are of single ranks."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``stages_s`` is what each stage computes for one of ``num_microbatches``."""

    stages_s: tuple[float, ...]
    num_microbatches: int

    @property
    def filled(self) -> float:
        """How often the slowest stage counts after the first microbatch."""
        return self.num_microbatches - 1.0


def meeting_wait_s(noise: Noise, compute_s: Mapping[float, int], steps: int = 1) -> float:
    """Return the wait per step of ranks that meet every ``steps`` steps.

    ``compute_s`` counts them by what they compute for a step without noise.
    """
    return expected_slowest(noise, compute_s, steps) - max(compute_s)


def pipeline_wait_s(
    noise: Noise, pipeline: Pipeline, mesh: Mesh, slow: Sequence[tuple[int, float]] = (), steps: int = 1
) -> float:  # fmt: skip
    """Return the wait per step of ``mesh.dp`` replicas of ``pipeline``, which meet every ``steps`` steps.

    ``slow`` are ranks that compute so many times longer.
    """
    alone_s = _pipelines_s(noise, pipeline, Mesh(1, mesh.pp, mesh.tp), tuple(slow))
    if mesh.dp == 1:
        return max(0.0, alone_s)  # where nobody waits, sums are rounded
    together_s = _pipelines_s(noise, pipeline, mesh, tuple(slow))
    # Over several steps the differences between replicas average out, the pipelines' own waits do not.
    return max(0.0, alone_s + (together_s - alone_s) / float(np.sqrt(steps)))


@lru_cache(maxsize=1024)
def _pipelines_s(noise: Noise, pipeline: Pipeline, mesh: Mesh, slow: tuple[tuple[int, float], ...]) -> float:  # fmt: skip
    stages_s = np.array(pipeline.stages_s)
    replicas = min(mesh.dp, _MOST_REPLICAS)
    count = max(_LEAST_DRAWS, min(_MOST_DRAWS, _ELEMENTS // (replicas * mesh.pp)))
    generator = np.random.Generator(np.random.PCG64(0))
    gumbel = -np.log(generator.standard_exponential((replicas, mesh.pp, count)))
    factors = largest_of(noise, mesh.tp, gumbel)
    factors += expected_max(noise, mesh.tp) - factors.mean(axis=2, keepdims=True)
    slowness = np.ones((replicas, mesh.pp, 1))
    for rank, factor in slow:
        dp, pp, _ = mesh.coordinates(rank) if rank < mesh.world_size else (replicas, 0, 0)
        if dp < replicas:
            alone = largest_of(noise, 1, -np.log(generator.standard_exponential(count)))
            factors[dp, pp] = np.maximum(factors[dp, pp], factor * (alone + 1.0 - alone.mean()))
            slowness[dp, pp] = max(factor, slowness[dp, pp, 0])
    each_s = factors * stages_s[:, np.newaxis]
    plain_s = slowness * stages_s[:, np.newaxis]
    mean_s = float(_through(each_s, pipeline).max(axis=0).mean())
    # The slowest rank of many more replicas is the slowest of a stage that is full.
    further = expected_max(noise, mesh.world_size) - expected_max(
        noise, replicas * mesh.pp * mesh.tp
    )
    more_s = further * float(stages_s.max()) * pipeline.num_microbatches
    return mean_s + more_s - float(_through(plain_s, pipeline).max())


def _through(times_s: Array, pipeline: Pipeline) -> Array:
    """Return how long each replica takes, of times by replica, stage and draw."""
    longest: Array = times_s.sum(axis=1) + pipeline.filled * times_s.max(axis=1)
    return longest


def server_wait_s(noise: Noise, compute_s: Sequence[float], push_s: float, add_s: float) -> float:
    """Return the wait of workers that compute ``compute_s`` each, in the order of ranks.

    Their gradients take ``push_s`` each on the server's link, in the order in which they come, and
    then ``add_s`` to add, in the order of ranks.
    """
    count = max(_LEAST_DRAWS, min(_MOST_DRAWS, _ELEMENTS // len(compute_s)))
    generator = np.random.Generator(np.random.PCG64(0))
    gumbel = -np.log(generator.standard_exponential((len(compute_s), count)))
    factors = largest_of(noise, 1, gumbel)
    factors += 1.0 - factors.mean(axis=1, keepdims=True)
    alone_s = np.array(compute_s)[:, np.newaxis]
    noisy_s, plain_s = (_added_s(each, push_s, add_s) for each in (alone_s * factors, alone_s))
    return max(0.0, float(noisy_s.mean() - plain_s.mean()))


def _added_s(computed_s: Array, push_s: float, add_s: float) -> Array:
    """Return when all is added, of times by worker and draw: a queue in front of another."""
    order = np.argsort(computed_s, axis=0, kind="stable")
    here_s = np.empty_like(computed_s)
    came_s = _served_s(np.take_along_axis(computed_s, order, axis=0), push_s)
    np.put_along_axis(here_s, order, came_s, axis=0)
    last_s: Array = _served_s(here_s, add_s)[-1]
    return last_s


def _served_s(arrived_s: Array, service_s: float) -> Array:
    """Return when each of a queue has been served: D. V. Lindley's recursion, by a running maximum."""
    before_s = service_s * np.arange(len(arrived_s))[:, np.newaxis]
    served_s: Array = np.maximum.accumulate(arrived_s - before_s, axis=0) + before_s + service_s
    return served_s
