"""Prices of a step's compute: what every turn of every rank takes alone on a node, and waits for noise."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exec.noise import Noise
from exec.program.mesh import Mesh
from exec.program.ops import Kernel
from sim.costs import Costs
from sim.grid_family import Part, Share
from sim.grid_links import Array
from sim.waits import Pipeline, meeting_wait_s, pipeline_wait_s


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """What a share's ranks compute: for each stage an array by share of the batch, tp class and turn.

    It ``is_within`` what was measured, or not.
    """

    share: Share
    computed: tuple[Array, ...]
    is_within: bool


def priced(costs: Costs, share: Share, factors: Mapping[Kernel, float] | None = None) -> Priced:
    """Return the prices of ``share`` by ``costs`` of one rank alone; ``factors`` multiply what kernels take."""
    is_within = True
    stages = []
    for stage in range(len(share.replicas[0].parts)):
        rows = []
        for replica in share.replicas:
            for part in replica.parts[stage]:
                times, within = _turns_s(costs, part, factors or {})
                rows.append(times)
                is_within = is_within and within
        stages.append(np.array(rows).reshape(len(share.replicas), -1, len(rows[0])))
    return Priced(share, tuple(stages), is_within)


def _turns_s(costs: Costs, part: Part, factors: Mapping[Kernel, float]) -> tuple[list[float], bool]:
    inner, outer = costs.missed(part.nbytes)
    is_within = True
    times = []
    for turn in part.computed:
        total_s = 0.0
        for kernel, shape in turn:
            (cached_s, inner_s, outer_s), within = costs.parts_s(kernel, shape)
            total_s += (cached_s + inner_s * inner + outer_s * outer) * factors.get(kernel, 1.0)
            is_within = is_within and within
        times.append(total_s)
    return times, is_within


def wait_s(noise: Noise | None, price: Priced, mesh: Mesh, more: int, count: int, slowdown: float) -> float:  # fmt: skip
    """Return what :func:`sim.forecast.forecast` says that a step waits for slower ranks.

    ``more`` replicas have one sample more; a step has ``count`` microbatches.
    """
    if noise is None:
        return 0.0
    if mesh.pp > 1:
        stages_s = tuple(float(stage.sum(axis=2).max()) * slowdown / count for stage in price.computed)  # fmt: skip
        return pipeline_wait_s(noise, Pipeline(stages_s, count), mesh)
    computes_s = (price.computed[0].sum(axis=2) * slowdown).tolist()
    ranks: Counter[float] = Counter()
    replicas: Sequence[int] = (more, mesh.dp - more) if more else (mesh.dp,)
    for own_s, parts, num in zip(computes_s, price.share.replicas, replicas, strict=True):
        for compute_s, part in zip(own_s, parts.parts[0], strict=True):
            ranks[compute_s] += num * len(part.tp)
    return meeting_wait_s(noise, ranks)
