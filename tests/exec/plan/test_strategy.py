"""Laws of strategies by name: each is a shape of mesh."""

import pytest

from exec.errors import UsageError
from exec.network.network import mlp
from exec.plan.epoch import idle_options
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy, mesh_of, strategy_of
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from tests.exec.random_plans import factorisations, small_residual

PURE = {
    Strategy.DATA: Mesh(dp=6),
    Strategy.PIPELINE: Mesh(pp=6),
    Strategy.TENSOR: Mesh(tp=6),
}


@pytest.mark.parametrize("strategy", PURE)
def test_pure_strategy_puts_all_ranks_on_its_axis(strategy: Strategy) -> None:
    assert mesh_of(strategy, 6) == PURE[strategy]
    assert strategy_of(PURE[strategy]) is strategy


@pytest.mark.parametrize("strategy", Strategy)
def test_one_rank_is_serial_whatever_the_strategy(strategy: Strategy) -> None:
    assert mesh_of(strategy, 1) == Mesh()
    assert strategy_of(Mesh()) is Strategy.SERIAL


@pytest.mark.parametrize("ranks", [1, 6, 8, 12])
def test_hybrid_needs_any_two_factors_only(ranks: int) -> None:
    for mesh in factorisations(ranks):
        assert mesh_of(Strategy.HYBRID, ranks, mesh.dp, mesh.pp, mesh.tp) == mesh
        assert mesh_of(Strategy.HYBRID, ranks, mesh.dp, mesh.pp) == mesh
        assert mesh_of(Strategy.HYBRID, ranks, mesh.dp, tp=mesh.tp) == mesh
        assert mesh_of(Strategy.HYBRID, ranks, pp=mesh.pp, tp=mesh.tp) == mesh


def test_mesh_that_mixes_axes_is_hybrid() -> None:
    assert {
        strategy_of(mesh)
        for mesh in factorisations(8)
        if sorted((mesh.dp, mesh.pp, mesh.tp))[1] > 1
    } == {Strategy.HYBRID}


@pytest.mark.parametrize(
    ("strategy", "ranks", "factors", "message"),
    [
        (Strategy.HYBRID, 4, (0, 2, 2), "dp must be at least 1, got 0"),
        (Strategy.HYBRID, 4, (3, 1, 1), "dp x pp x tp must be the number of ranks, 4, got dp 3 x pp 1 x tp 1 = 3"),
        (Strategy.HYBRID, 4, (3, 1, None), "dp x pp x tp must be the number of ranks, 4, got dp 3 x pp 1 x tp 1 = 3"),
        (Strategy.HYBRID, 4, (None, None, 2), "dp x pp x tp must be the number of ranks, 4, got dp 1 x pp 1 x tp 2 = 2"),
        (Strategy.SERIAL, 2, (), "strategy serial runs on 1 rank, got 2"),
        (Strategy.DATA, 4, (2, 2, None), "dp must be 4 for strategy data on 4 ranks, got 2; use --strategy hybrid to mix"),
        (Strategy.PIPELINE, 4, (None, None, 4), "tp must be 1 for strategy pipeline on 4 ranks, got 4"),
    ],
)  # fmt: skip
def test_factors_that_contradict_are_refused(
    strategy: Strategy, ranks: int, factors: tuple[int | None, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        mesh_of(strategy, ranks, *factors)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("mesh", "options", "idle"),
    [
        (Mesh(2), PlanOptions(sync_batchnorm=True), []),
        (Mesh(pp=2), PlanOptions(sync_batchnorm=True, stages=(3,)), ["sync-batchnorm"]),
        (Mesh(tp=2), PlanOptions(sync_batchnorm=True, strategy=Strategy.KRIZHEVSKY, overlap=True), []),
        (Mesh(2), PlanOptions(overlap=True, algorithm=Algorithm.RING), []),
        (Mesh(), PlanOptions(overlap=True, algorithm=Algorithm.RING), ["overlap", "algorithm"]),
        (Mesh(tp=2), PlanOptions(overlap=True, algorithm=Algorithm.RING), ["overlap"]),
        (Mesh(2), PlanOptions(overlap=True, algorithm=Algorithm.SHARED_WINDOW), ["overlap"]),
        (Mesh(tp=2), PlanOptions(algorithm=Algorithm.SHARED_WINDOW), ["algorithm"]),
        (Mesh(2), PlanOptions(strategy=Strategy.AVERAGING, algorithm=Algorithm.SHARED_WINDOW), ["algorithm"]),
        (Mesh(2), PlanOptions(average_every=4, servers=2), ["average-every", "servers"]),
        (Mesh(2), PlanOptions(strategy=Strategy.AVERAGING, average_every=4, overlap=True), ["overlap"]),
        (Mesh(3), PlanOptions(strategy=Strategy.SERVER, servers=2, algorithm=Algorithm.RING), ["algorithm"]),
    ],
)  # fmt: skip
def test_options_that_change_nothing_are_named(
    mesh: Mesh, options: PlanOptions, idle: list[str]
) -> None:
    assert idle_options(Workload(small_residual(), 8), mesh, options) == idle


def test_networks_without_normalisation_have_none_to_share() -> None:
    options = PlanOptions(sync_batchnorm=True)
    assert idle_options(Workload(mlp(6, 4), 8), Mesh(2), options) == ["sync-batchnorm"]
