"""Random networks, meshes and options: drawn by hypothesis, or from a seed where MPI needs a list."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.network import mlp
from exec.network.parse import parse_net
from exec.plan.collectives import expand
from exec.plan.epoch import num_trainers, plan_epoch
from exec.plan.layout import check_mesh
from exec.plan.nodes import check_nodes
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.segment import Segment
from exec.plan.step import plan_step
from exec.plan.strategy import MASTERS, SERVERS, SHARED, Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.program import Program
from exec.workload import Workload

Item = TypeVar("Item")
Pick = Callable[[Sequence[Item]], Item]
SCHEMES = (Strategy.AVERAGING, *MASTERS, *SERVERS, *SHARED)


@dataclass(frozen=True, slots=True)
class Case:
    """A workload, and one way to share it; legal by construction."""

    workload: Workload
    mesh: Mesh
    options: PlanOptions

    @classmethod
    def of(cls, net: str, batch: int, mesh: Mesh, **options: object) -> "Case":
        """Return the case of ``net``, in float64, with ``options`` by name."""
        return cls(Workload(parse_net(net), batch, 8), mesh, PlanOptions(**options))  # type: ignore[arg-type]  # by name

    @property
    def program(self) -> Program:
        """The program, its collectives not yet expanded."""
        return plan_step(self.workload, self.mesh, self.options)

    @property
    def expanded(self) -> Program:
        """The program that a transport would run."""
        return expand(self.program)

    @property
    def num_trainers(self) -> int:
        """How many replicas there are."""
        return num_trainers(self.mesh, self.options)

    def segments(self, num_samples: int) -> tuple[Segment, ...]:
        """Return the epoch that a transport would run, its collectives expanded."""
        planned = plan_epoch(self.workload, self.mesh, self.options, num_samples)
        return tuple(Segment(expand(each.program), each.times, each.samples) for each in planned)


def factorisations(ranks: int) -> list[Mesh]:
    """Return every mesh of ``ranks`` ranks.

    >>> len(factorisations(8))
    10
    """
    divisors = [d for d in range(1, ranks + 1) if ranks % d == 0]
    return [Mesh(d, p, ranks // d // p) for d in divisors for p in divisors if ranks // d % p == 0]


def draw_case(pick: Pick, ranks: Sequence[int]) -> Case:  # type: ignore[type-arg]  # of anything
    """Return a case on one of ``ranks``; ``pick`` chooses one of what it is offered."""
    num_layers = pick(range(1, 6))
    widths = (*(pick(range(1, 10)) for _ in range(num_layers)), pick(range(2, 10)))
    size = pick(ranks)
    microbatches = pick(range(1, 5))
    # Data parallelism always fits, so there is always a mesh to pick.
    mesh = pick([m for m in factorisations(size) if _fits(widths, m)])
    batch = mesh.dp * microbatches + pick(range(14))
    options = PlanOptions(
        microbatches, pick(list(Schedule)), pick([1, 200, 1 << 20]), pick([False, True]),
        pick(list(Algorithm)),
        ranks_per_node=pick([count for count in range(1, size + 1) if _lies_evenly(mesh, count)]),
    )  # fmt: skip
    return Case(Workload(mlp(*widths), batch, 8, pick([False, True])), mesh, options)


def draw_scheme(
    pick: Pick,  # type: ignore[type-arg]  # of anything
    ranks: Sequence[int],
    strategies: Sequence[Strategy] = SCHEMES,
) -> Case:
    """Return a case of one of ``strategies``, by which replicas talk, on one of ``ranks``."""
    least = dict.fromkeys((*MASTERS, *SERVERS), 2)
    strategy = pick([each for each in strategies if max(ranks) >= least.get(each, 1)])
    size = pick([each for each in ranks if each >= least.get(strategy, 1)])
    widths = (*(pick(range(1, 10)) for _ in range(pick(range(1, 5)))), pick(range(2, 10)))
    options = PlanOptions(strategy=strategy, average_every=pick(range(5)))
    mesh = Mesh(dp=size)
    if strategy is Strategy.AVERAGING:
        mesh = pick([m for m in factorisations(size) if _fits(widths, m)])
        options = replace(
            options, num_microbatches=pick(range(1, 4)), schedule=pick(list(Schedule)),
            algorithm=pick(list(Algorithm)),
            ranks_per_node=pick([each for each in range(1, size + 1) if _lies_evenly(mesh, each)]),
        )  # fmt: skip
    elif strategy in SERVERS:
        options = replace(options, servers=pick(range(1, min(4, size))))
    least_batch = num_trainers(mesh, options) * options.num_microbatches
    workload = Workload(mlp(*widths), least_batch + pick(range(14)), 8, pick([False, True]))
    return Case(workload, mesh, options)


def _fits(widths: tuple[int, ...], mesh: Mesh) -> bool:
    try:
        check_mesh(Workload(mlp(*widths), mesh.dp), mesh, PlanOptions())
    except UsageError:
        return False
    return True


def _lies_evenly(mesh: Mesh, ranks_per_node: int) -> bool:
    try:
        check_nodes(mesh, ranks_per_node)
    except UsageError:
        return False
    return True


@st.composite
def cases(draw: st.DrawFn, ranks: Sequence[int] = range(1, 9)) -> Case:
    """Draw a case on one of ``ranks``."""
    return draw_case(lambda options: draw(st.sampled_from(options)), ranks)


@st.composite
def schemes(
    draw: st.DrawFn, ranks: Sequence[int] = range(1, 9), strategies: Sequence[Strategy] = SCHEMES
) -> Case:
    """Draw a case by which replicas talk."""
    return draw_scheme(lambda options: draw(st.sampled_from(options)), ranks, strategies)


def seeded_schemes(count: int, ranks: int, seed: int) -> list[Case]:
    """Return ``count`` cases of each scheme on ``ranks`` ranks, the same in every process."""
    generator = random.Random(seed)
    fitting = SCHEMES if ranks > 1 else (Strategy.AVERAGING, *SHARED)
    return [
        draw_scheme(generator.choice, [ranks], [each]) for each in fitting for _ in range(count)
    ]


def seeded_cases(count: int, ranks: int, seed: int) -> list[Case]:
    """Return ``count`` cases on ``ranks`` ranks, the same in every process."""
    generator = random.Random(seed)
    return [draw_case(generator.choice, [ranks]) for _ in range(count)]
