"""The cases of ``scaling.py``: networks, strategies and meshes, and what each cannot be run on."""

from collections.abc import Iterator
from dataclasses import dataclass

from exec.errors import StepcastError
from exec.network.parse import parse_net
from exec.plan.epoch import check_plan
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.workload import Workload

DEEP = (
    "784-512-512-512-512-512-512-512-26"  # eight dense layers, for pipelines of up to eight stages
)
NETS = (("784-512-512-26", 2048), ("128-100-26", 8192), ("cnn", 256))
DEEP_BATCH = 1024
COUNTS = (1, 2, 4, 8, 16)
HYBRIDS = {4: (2, 2, 1), 8: (2, 2, 2), 16: (4, 2, 2)}
MICROBATCHES_PER_STAGE = 4

_SHARED = (Strategy.DATA, Strategy.PIPELINE, Strategy.TENSOR, Strategy.HYBRID)


@dataclass(frozen=True, slots=True)
class Case:
    """One plan on some ranks, of the same global batch on any number of them."""

    net: str
    batch: int
    strategy: Strategy
    ranks: int

    @property
    def workload(self) -> Workload:
        """The step it trains."""
        return Workload(parse_net(self.net), self.batch)

    @property
    def mesh(self) -> Mesh:
        """How its ranks are arranged."""
        parts = HYBRIDS[self.ranks] if self.strategy is Strategy.HYBRID else (None, None, None)
        return mesh_of(self.strategy, self.ranks, *parts)

    @property
    def options(self) -> PlanOptions:
        """How it uses them."""
        stages = self.mesh.pp
        microbatches = MICROBATCHES_PER_STAGE * stages if stages > 1 else 1
        return PlanOptions(microbatches, strategy=self.strategy)

    def arguments(self, stages: str) -> list[str]:
        """Return the trainer's options, with the first layers of the ``stages`` if there are any."""
        mesh, found = self.mesh, ["--net", self.net, "--batch", str(self.batch)]
        found += ["--strategy", self.strategy, "--microbatches", str(self.options.num_microbatches)]
        if self.strategy is Strategy.HYBRID:
            found += ["--dp", str(mesh.dp), "--pp", str(mesh.pp), "--tp", str(mesh.tp)]
        return found + (["--stages", stages] if stages else [])


def cases(nets: tuple[tuple[str, int], ...] = NETS, deep_batch: int = DEEP_BATCH) -> Iterator[Case]:
    """Yield all cases, those of one network behind one another, one rank first."""
    for net, batch in nets:
        yield Case(net, batch, Strategy.SERIAL, 1)
        for strategy in _SHARED:
            for ranks in COUNTS[1:]:
                if strategy is not Strategy.HYBRID or ranks in HYBRIDS:
                    yield Case(net, batch, strategy, ranks)
    if deep_batch:
        yield Case(DEEP, deep_batch, Strategy.SERIAL, 1)
        for ranks in COUNTS[1:]:
            yield Case(DEEP, deep_batch, Strategy.PIPELINE, ranks)


def why_not(case: Case, num_cores: int) -> str | None:
    """Return why ``case`` cannot be run here, None if it can."""
    try:
        check_plan(case.workload, case.mesh, case.options)
    except StepcastError as error:
        return str(error)
    if case.ranks > num_cores:
        return f"ranks must be at most the {num_cores} cores, got {case.ranks}"
    return None
