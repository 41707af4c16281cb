"""Choices: the plans that fit a number of ranks, and the best of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from exec.errors import UsageError
from exec.plan.epoch import check_plan
from exec.plan.layout import check_mesh
from exec.plan.options import PlanOptions
from exec.plan.strategy import SYNCHRONOUS, Strategy, strategy_of
from exec.plan.window import check_placement
from exec.program.mesh import Mesh
from exec.workload import Workload

_MICROBATCHES = (1, 2, 4, 8, 16, 32)
_ROUNDING = 1.0 - 1e-9
"""A bound and a time add the same numbers in other orders."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A mesh, and how many microbatches it may use."""

    mesh: Mesh
    microbatches: tuple[int, ...]


def node_counts(most: int) -> list[int]:
    """Return the powers of two up to ``most``, and ``most`` itself.

    >>> node_counts(6)
    [1, 2, 4, 6]
    """
    counts = [1 << i for i in range(most.bit_length()) if 1 << i <= most]
    return counts if counts[-1] == most else [*counts, most]


def factorisations(ranks: int) -> Iterator[Mesh]:
    """Yield every mesh of ``ranks`` ranks."""
    for dp in _divisors(ranks):
        for pp in _divisors(ranks // dp):
            yield Mesh(dp, pp, ranks // dp // pp)


def _divisors(number: int) -> list[int]:
    small = [i for i in range(1, int(number**0.5) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def choices(
    ranks: int, workload: Workload, strategies: Sequence[Strategy], fixed: Mesh | None,
    microbatches: int | None, options: PlanOptions = PlanOptions(),
) -> dict[Strategy, list[Choice]]:  # fmt: skip
    """Return, for each strategy that fits, its meshes and numbers of microbatches.

    Only pipelines are cut into microbatches, unless the user says how many. Strategies that are
    no shape of mesh use all ranks as replicas, but for Krizhevsky's, whose replicas may be groups
    of ranks; ``options`` say how. A mesh that their algorithm cannot lay over the nodes does not fit.
    """
    found: dict[Strategy, list[Choice]] = {}
    for strategy in strategies:
        if strategy not in SYNCHRONOUS:
            meshes = [Mesh(ranks)] if fixed is None else [fixed]
            if strategy is Strategy.KRIZHEVSKY and fixed is None:
                meshes = [Mesh(ranks // tp, 1, tp) for tp in _divisors(ranks) if tp > 1]
            tried = replace(options, strategy=strategy, num_microbatches=microbatches or 1)
            if fitting := [mesh for mesh in meshes if _admits(workload, mesh, tried)]:
                found[strategy] = [Choice(mesh, (microbatches or 1,)) for mesh in fitting]
    for mesh in [fixed] if fixed is not None else factorisations(ranks):
        strategy = strategy_of(mesh)
        if strategy not in strategies:
            continue
        counts = (microbatches,) if microbatches else _MICROBATCHES if mesh.pp > 1 else (1,)
        numbers = tuple(count for count in counts if _fits(workload, mesh, count, options))
        if numbers:
            found.setdefault(strategy, []).append(Choice(mesh, numbers))
    return found


def best(
    options: PlanOptions,
    meshes: Sequence[Choice],
    step_time_s: Callable[[Mesh, PlanOptions], float],
    least_s: Callable[[Mesh, PlanOptions], float] = lambda _, __: 0.0,
    closer_s: Callable[[Mesh, PlanOptions], float] = lambda _, __: 0.0,
) -> tuple[Mesh, PlanOptions] | None:
    """Return the mesh and the options with the shortest step, or None if no step is finite.

    ``least_s`` is what a step takes at least, ``closer_s`` too, but dearer to ask. Of all plans the
    one that may be shortest is always looked at next: it is bounded closer, and solved when it comes
    up again. Once none that is left can be shorter than the shortest, the search ends. Of equal ones
    it is the first.
    """
    plans = [
        (choice.mesh, replace(options, num_microbatches=count))
        for choice in meshes
        for count in choice.microbatches
    ]
    waiting = [(least_s(*plan), place, False) for place, plan in enumerate(plans)]
    heapify(waiting)
    found = math.inf, 0
    answer: tuple[Mesh, PlanOptions] | None = None
    while waiting and waiting[0][0] * _ROUNDING <= found[0]:
        bound_s, place, is_close = heappop(waiting)
        if not is_close:
            heappush(waiting, (max(bound_s, closer_s(*plans[place])), place, True))
            continue
        time_s = step_time_s(*plans[place])
        if time_s < math.inf and (time_s, place) < found:
            found, answer = (time_s, place), plans[place]
    return answer


def _fits(workload: Workload, mesh: Mesh, microbatches: int, options: PlanOptions) -> bool:
    try:
        check_mesh(workload, mesh, replace(options, num_microbatches=microbatches))
        check_placement(mesh, options, options.ranks_per_node)
    except UsageError:
        return False
    return True


def _admits(workload: Workload, mesh: Mesh, options: PlanOptions) -> bool:
    try:
        check_plan(workload, mesh, options)
        check_placement(mesh, options, options.ranks_per_node)
    except UsageError:
        return False
    return True
