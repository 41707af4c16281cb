"""Random networks, meshes and options: drawn by hypothesis, or from a seed where MPI needs a list."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.modules import Add, AvgPool, BatchNorm2d, Conv2d, Linear, ReLU
from exec.network.network import Network, build, mlp
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
from tests.exec.random_graphs import draw_graph
from tests.exec.random_networks import draw_network

Item = TypeVar("Item")
Pick = Callable[[Sequence[Item]], Item]
DrawNetwork = Callable[[Pick], Network]  # type: ignore[type-arg]  # of anything
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


def draw_mlp(pick: Pick) -> Network:  # type: ignore[type-arg]  # of anything
    """Return a network of dense layers."""
    return mlp(*(pick(range(1, 10)) for _ in range(pick(range(1, 6)))), pick(range(2, 10)))


def small_residual() -> Network:
    """Return a residual network of three layers with weights, one sum, and all its kinds but one."""
    return build("small_residual", (2, 4, 4), [
        ("conv1", Conv2d(4, (3, 3), padding=(1, 1)), ()), ("bn1", BatchNorm2d(), ()), ("relu1", ReLU(), ()),
        ("conv2", Conv2d(4, (3, 3), padding=(1, 1), has_bias=False), ()), ("bn2", BatchNorm2d(), ()),
        ("add", Add(), ("bn2", "relu1")), ("relu2", ReLU(), ()), ("pool", AvgPool(), ()), ("fc", Linear(3), ()),
    ])  # fmt: skip


def draw_case(
    pick: Pick,  # type: ignore[type-arg]  # of anything
    ranks: Sequence[int],
    draw: DrawNetwork = draw_mlp,
) -> Case:
    """Return a case on one of ``ranks``; ``pick`` chooses one of what it is offered."""
    network = draw(pick)
    size = pick(ranks)
    microbatches = pick(range(1, 5))
    # Data parallelism always fits, so there is always a mesh to pick.
    exchanged = PlanOptions(strategy=Strategy.KRIZHEVSKY)
    fitting = [(m, PlanOptions()) for m in factorisations(size) if _fits(network, m)]
    fitting += [(m, exchanged) for m in factorisations(size) if m.pp == 1 and _fits(network, m, exchanged)]  # fmt: skip
    mesh, options = pick(fitting)
    batch = mesh.dp * microbatches + pick(range(14))
    options = PlanOptions(
        microbatches, pick(list(Schedule)), pick([1, 200, 1 << 20]), pick([False, True]),
        pick(list(Algorithm)), options.strategy,
        ranks_per_node=pick([count for count in range(1, size + 1) if _lies_evenly(mesh, count)]),
    )  # fmt: skip
    if any(isinstance(node.module, BatchNorm2d) for node in network.nodes):
        options = replace(options, sync_batchnorm=pick([False, True]))
    return Case(Workload(network, batch, 8, pick([False, True])), mesh, options)


def draw_scheme(
    pick: Pick,  # type: ignore[type-arg]  # of anything
    ranks: Sequence[int],
    strategies: Sequence[Strategy] = SCHEMES,
    draw: DrawNetwork = draw_mlp,
) -> Case:
    """Return a case of one of ``strategies``, by which replicas talk, on one of ``ranks``."""
    least = dict.fromkeys((*MASTERS, *SERVERS), 2)
    strategy = pick([each for each in strategies if max(ranks) >= least.get(each, 1)])
    size = pick([each for each in ranks if each >= least.get(strategy, 1)])
    network = draw(pick)
    options = PlanOptions(strategy=strategy, average_every=pick(range(5)))
    mesh = Mesh(dp=size)
    if strategy is Strategy.AVERAGING:
        mesh = pick([m for m in factorisations(size) if _fits(network, m)])
        options = replace(
            options, num_microbatches=pick(range(1, 4)), schedule=pick(list(Schedule)),
            algorithm=pick(list(Algorithm)),
            ranks_per_node=pick([each for each in range(1, size + 1) if _lies_evenly(mesh, each)]),
        )  # fmt: skip
    elif strategy in SERVERS:
        options = replace(options, servers=pick(range(1, min(4, size))))
    least_batch = num_trainers(mesh, options) * options.num_microbatches
    workload = Workload(network, least_batch + pick(range(14)), 8, pick([False, True]))
    return Case(workload, mesh, options)


def _fits(network: Network, mesh: Mesh, options: PlanOptions = PlanOptions()) -> bool:
    try:
        check_mesh(Workload(network, mesh.dp), mesh, options)
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
def cases(
    draw: st.DrawFn, ranks: Sequence[int] = range(1, 9), network: DrawNetwork = draw_mlp
) -> Case:
    """Draw a case on one of ``ranks``."""
    return draw_case(lambda options: draw(st.sampled_from(options)), ranks, network)


def all_cases(ranks: Sequence[int] = range(1, 9)) -> st.SearchStrategy[Case]:
    """Draw a case of dense layers, of a convolutional network, or of a wild graph."""
    return st.one_of(*(cases(ranks, each) for each in (draw_mlp, draw_network, draw_graph)))


@st.composite
def schemes(
    draw: st.DrawFn, ranks: Sequence[int] = range(1, 9), strategies: Sequence[Strategy] = SCHEMES,
    network: DrawNetwork = draw_mlp,
) -> Case:  # fmt: skip
    """Draw a case by which replicas talk."""
    return draw_scheme(lambda options: draw(st.sampled_from(options)), ranks, strategies, network)


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
