"""What batch normalisation means when ranks share a batch, each law told by the serial program."""

from dataclasses import replace

import numpy as np
import pytest

from exec.network.modules import (
    Add,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    ReLU,
    Sigmoid,
)
from exec.network.network import build
from exec.nn.weights import Weights
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.runtime.weights import scatter_weights
from exec.transport.threads import ThreadTransport, run_threads
from exec.workload import Workload
from tests.exec.random_plans import Case
from tests.exec.runtime.equivalence import dataset_of
from tests.exec.runtime.graphs import Trained, any_start, started, trained

BATCH = 12
NETWORK = build("residual", (2, 6, 6), [
    ("conv1", Conv2d(6, (3, 3), padding=(1, 1)), ()),
    ("bn1", BatchNorm2d(), ()),
    ("relu1", ReLU(), ()),
    ("conv2", Conv2d(6, (3, 3), padding=(1, 1), has_bias=False), ()),
    ("bn2", BatchNorm2d(), ()),
    ("add", Add(), ("bn2", "relu1")),
    ("relu2", ReLU(), ()),
    ("conv3", Conv2d(8, (1, 1), (2, 2)), ()),
    ("bn3", BatchNorm2d(), ()),
    ("pool", MaxPool((2, 2), (2, 2)), ()),
    ("flatten", Flatten(), ()),
    ("fc1", Linear(6), ()),
    ("sigmoid", Sigmoid(), ()),
    ("fc2", Linear(4), ()),
])  # fmt: skip
WORKLOAD = Workload(NETWORK, BATCH, 8, has_momentum=True)
_DRAWN = dataset_of(Case(WORKLOAD, Mesh(), PlanOptions()))
# Two batches, so that all parts of a batch are equal; that and where they begin, are told by others.
DATASET = replace(_DRAWN, train_images=_DRAWN.train_images[: 2 * BATCH], train_labels=_DRAWN.train_labels[: 2 * BATCH])  # fmt: skip
# Four steps at rate 0.1 move weights of about one, of which each rounding of u = 1.1e-16 is divided
# by deviations of a tenth or more in three normalisations: 4 x 10^3 u at the most, and in fact u.
ATOL = 5e-13


def plan(mesh: Mesh = Mesh(), **options: object) -> TrainingPlan:
    """Return the plan of the network above on ``mesh``."""
    return TrainingPlan(WORKLOAD, mesh, PlanOptions(**options), "float64", 0.1, 0.9)  # type: ignore[arg-type]  # by name


def results(mesh: Mesh = Mesh(), **options: object) -> Trained:
    """Return what two epochs on ``mesh`` come to."""
    return run_threads(mesh.world_size, lambda wire: trained(started(plan(mesh, **options), DATASET, wire)))[-1]  # fmt: skip


def assert_same(found: Trained, expected: Trained, *, same_stats: bool = True) -> None:
    """Assert that losses and weights are equal, and running statistics too, or not."""
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0, atol=ATOL)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=0, atol=ATOL)
    differ = float(np.abs(found.stats - expected.stats).max())
    assert differ < ATOL if same_stats else differ > 1e-3


@pytest.mark.parametrize("options, mesh", [
    ({}, Mesh(dp=2)),
    ({}, Mesh(dp=3)),
    ({}, Mesh(dp=2, tp=2)),
    ({"strategy": Strategy.KRIZHEVSKY}, Mesh(tp=3)),
    ({"strategy": Strategy.KRIZHEVSKY}, Mesh(dp=2, tp=2)),
    ({"strategy": Strategy.SHARED_WINDOWS}, Mesh(dp=2)),
], ids=str)  # fmt: skip
def test_ranks_with_statistics_of_their_own_learn_as_one_in_so_many_microbatches(
    options: dict[str, object], mesh: Mesh
) -> None:
    """A rank normalises its share of the batch by that share, as one rank would a microbatch.

    So weights are those of one rank; running statistics are not: one rank moves them once for each
    microbatch, but of ranks each moves its own, and the mean is taken.
    """
    num_shares = mesh.dp * (mesh.tp if options.get("strategy") is Strategy.KRIZHEVSKY else 1)
    alone = results(num_microbatches=num_shares)
    assert_same(results(mesh, **options), alone, same_stats=False)


@pytest.mark.parametrize("options, mesh", [
    ({}, Mesh(dp=2)),
    ({}, Mesh(dp=5)),
    ({}, Mesh(dp=2, pp=2)),
    ({}, Mesh(dp=2, tp=2)),
    ({"strategy": Strategy.KRIZHEVSKY}, Mesh(tp=2)),
    ({"strategy": Strategy.KRIZHEVSKY}, Mesh(tp=5)),
    ({"strategy": Strategy.KRIZHEVSKY}, Mesh(dp=2, tp=2)),
], ids=str)  # fmt: skip
def test_sync_batchnorm_is_one_rank_on_the_whole_batch(
    options: dict[str, object], mesh: Mesh
) -> None:
    """All samples of a batch are normalised together, wherever they are, in shares of any size."""
    assert_same(results(mesh, sync_batchnorm=True, **options), results())


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("mesh", [Mesh(pp=2), Mesh(pp=3), Mesh(tp=2), Mesh(pp=2, tp=2)], ids=str)
def test_pipeline_and_tensor_are_one_rank_with_as_many_microbatches(mesh: Mesh, count: int) -> None:
    """Microbatches are normalised one by one on any number of ranks, and channels do not meet."""
    assert_same(results(mesh, num_microbatches=count), results(num_microbatches=count))


def test_sync_batchnorm_of_a_pipeline_normalises_a_microbatch_of_all_replicas_together() -> None:
    """With M microbatches on dp replicas, the i-th of all replicas are one batch."""
    found = results(Mesh(2, 2, 1), num_microbatches=2, sync_batchnorm=True)
    assert_same(found, results(Mesh(2), num_microbatches=2, sync_batchnorm=True))
    # Replicas have other samples in their i-th parts than one rank has in its own.
    alone = results(num_microbatches=2)
    assert np.abs(found.weights - alone.weights).max() > 1e-4


@pytest.mark.parametrize("strategy, ranks", [
    (Strategy.SERVER, 2), (Strategy.ASYNC_SERVER, 2), (Strategy.AVERAGING, 1),
    (Strategy.MASTER_ROUND_TRIP, 2), (Strategy.MASTER_BROADCAST, 2), (Strategy.HOGWILD, 1),
    (Strategy.SHARED_LOCK, 1), (Strategy.SHARED_WINDOWS, 1),
])  # fmt: skip
def test_one_trainer_is_one_rank_by_every_scheme(strategy: Strategy, ranks: int) -> None:
    """Whoever trains has the running statistics; a server or a master has none, and counts not."""
    assert_same(results(Mesh(dp=ranks), strategy=strategy), results())


def test_averaging_is_serial_training_on_shares_with_the_weights_averaged() -> None:
    """Replicas have statistics and velocities of their own; running statistics meet at the end."""
    found = results(Mesh(dp=2), strategy=Strategy.AVERAGING, average_every=2)
    half = replace(plan(), workload=replace(WORKLOAD, global_batch=BATCH // 2))

    def body(wire: ThreadTransport) -> Trained:
        order = started(plan(), DATASET, wire)
        replicas = [started(half, DATASET, wire) for _ in range(2)]
        for epoch in (1, 2):
            for batch in order.batches(epoch):
                for replica, share in zip(replicas, np.split(batch, 2), strict=True):
                    replica.do_step(share)
            states = [replica.weights() for replica in replicas]
            mean = (states[0].parameters + states[1].parameters) / 2
            for replica, state in zip(replicas, states, strict=True):
                scatter_weights(replica.buffers, Weights(NETWORK, mean, state.stats))
        stats = (states[0].stats + states[1].stats) / 2
        return Trained(found.losses, mean, stats, "")

    told = run_threads(1, body)[0]
    assert np.abs(told.stats - any_start(NETWORK)[1]).max() > 1e-2
    assert_same(found, told)


@pytest.mark.parametrize("cuts", [(3,), (7,), (11,), (13,), (3, 7), (7, 13), (3, 11, 13)], ids=str)
def test_chosen_stages_change_only_where_the_cut_is(cuts: tuple[int, ...]) -> None:
    mesh = Mesh(pp=len(cuts) + 1)
    options = {"stages": cuts, "num_microbatches": 2}
    assert_same(results(mesh, **options), results(num_microbatches=2))
    sessions: list[Session] = run_threads(mesh.world_size, lambda wire: Session(plan(mesh, **options), DATASET, wire))  # fmt: skip
    layouts = [session.buffers.layout for session in sessions]
    assert [layout.nodes[0] for layout in layouts] == [0, *cuts]
    assert sum(layout.num_parameters for layout in layouts) == NETWORK.num_parameters
