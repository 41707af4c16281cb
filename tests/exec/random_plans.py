"""Random networks, meshes and options: drawn by hypothesis, or from a seed where MPI needs a list."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import strategies as st

from exec.errors import UsageError
from exec.plan.collectives import expand
from exec.plan.layout import check_mesh
from exec.plan.nodes import check_nodes
from exec.plan.schedule import Schedule
from exec.plan.step import PlanOptions, plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.program import Program
from exec.workload import Workload, parse_net

Item = TypeVar("Item")
Pick = Callable[[Sequence[Item]], Item]


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
        pick(list(Algorithm)), pick([count for count in range(1, size + 1) if _lies_evenly(mesh, count)]),
    )  # fmt: skip
    return Case(Workload(widths, batch, 8, pick([False, True])), mesh, options)


def _fits(widths: tuple[int, ...], mesh: Mesh) -> bool:
    try:
        check_mesh(Workload(widths, mesh.dp), mesh, 1)
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


def seeded_cases(count: int, ranks: int, seed: int) -> list[Case]:
    """Return ``count`` cases on ``ranks`` ranks, the same in every process."""
    generator = random.Random(seed)
    return [draw_case(generator.choice, [ranks]) for _ in range(count)]
