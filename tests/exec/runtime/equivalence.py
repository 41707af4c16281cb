"""The correctness invariant: any mesh trains as one rank does.

The comparison itself, for the tests on threads, and as a program for MPI:
``mpiexec -n P python -m tests.exec.runtime.equivalence COUNT``.
"""

import math
import sys
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.network.modules import Linear
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from tests.exec.random_plans import Case, seeded_cases

EPOCHS = 2
# Sharing only reorders sums. With independent roundings of u = 1.1e-16, the error of a sum of N terms
# is below 6 sqrt(N) u of the sum of absolute terms, but for one in a million (N. J. Higham and T.
# Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41 (2019)).
# That sum is below 10 times the largest weight here, and two runs differ by twice the error:
# 2 x 6 x 10 x 1.1e-16 = 1.3e-14, times sqrt(N), for the gradient of one step.
ONE_STEP = 1.4e-14
# At most 6 steps at rate 0.1; a momentum of 0.5 doubles the effective rate, and the curvature of
# these nets lets a difference grow by less than 1.1 a step: 6 x 0.1 x 2 x 1.1^6 = 2.1 of the above.
ALL_STEPS = 2.2 * ONE_STEP


def tolerance(case: Case, factor: float) -> float:
    """Return ``factor`` for the additions on the way to a gradient: forward, backward and batch."""
    network = case.workload.network
    widths = [network.num_features]
    widths += [node.shape[0] for node in network.nodes if isinstance(node.module, Linear)]
    num_terms = 2 * sum(widths) + case.workload.global_batch + case.mesh.world_size
    return factor * math.sqrt(num_terms)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to, as every rank sees it; ``digest`` is that of this rank's parameters."""

    losses: tuple[float, ...]
    weights: NDArray[np.float64]
    digest: str


def dataset_of(case: Case) -> Dataset:
    """Return two batches and a short one, which may leave some ranks without samples."""
    batch, network = case.workload.global_batch, case.workload.network
    shapes = [network.num_features, *(node.shape[0] for node in network.nodes)]
    generator = np.random.Generator(np.random.PCG64([batch, *shapes]))
    num_train = 2 * batch + int(generator.integers(0, batch))
    images = generator.random((num_train + 3, network.num_features), dtype=np.float32)
    labels = generator.integers(0, network.num_classes, num_train + 3)
    return Dataset(
        "random",
        images[:num_train],
        labels[:num_train],
        images[num_train:],
        labels[num_train:],
        network.num_classes,
        "",
        network.image,
    )


def large_cases(ranks: int) -> list[Case]:
    """Return cases with messages of 256 KiB.

    MPI sends these only when they are received, so a buffer that is used again too early shows.
    """
    net = "8" + "-128" * ranks + "-8"
    meshes = (Mesh(dp=ranks), Mesh(pp=ranks), Mesh(tp=ranks))
    return [
        Case.of(net, 1024, mesh, num_microbatches=4, algorithm=algorithm)
        for mesh in meshes
        for algorithm in (Algorithm.LIBRARY, Algorithm.RING)
    ]


def two_level_cases(ranks: int) -> list[Case]:
    """Return cases of several ranks on each of several nodes, along each axis that is reduced."""
    net = "8" + f"-{4 * ranks}" * 3 + "-8"
    return [
        Case.of(net, 3 * ranks, mesh, algorithm=Algorithm.HIERARCHICAL, ranks_per_node=node_size,
                overlap=overlap, bucket_nbytes=1)
        for node_size in range(2, ranks)
        if ranks % node_size == 0
        for mesh in (Mesh(dp=ranks), Mesh(tp=ranks))
        for overlap in (False, True)
    ]  # fmt: skip


def fixed_cases(ranks: int) -> list[Case]:
    """Return the cases that are always run on ``ranks`` ranks of MPI.

    Six are there for two levels only, of both shapes; large messages are no others between six.
    """
    return two_level_cases(ranks) + (large_cases(ranks) if ranks < 6 else [])


def plan_of(case: Case, learning_rate: float, momentum: float) -> TrainingPlan:
    """Return the plan of ``case``."""
    workload = replace(case.workload, has_momentum=momentum > 0)
    return TrainingPlan(
        workload, case.mesh, case.options, "float64", learning_rate, momentum, seed=1
    )


def serial(plan: TrainingPlan) -> TrainingPlan:
    """Return the same training on one rank."""
    return replace(plan, mesh=Mesh(), options=PlanOptions())


def flat_weights(session: Session) -> NDArray[np.float64]:
    """Return all weights and biases in one array."""
    return session.weights().parameters


def train(plan: TrainingPlan, dataset: Dataset, wire: Transport) -> Trained:
    """Return what ``EPOCHS`` epochs come to."""
    session = Session(plan, dataset, wire)
    losses = tuple(session.run_epoch(epoch + 1).loss for epoch in range(EPOCHS))
    digest = sha256(session.buffers.parameters.tobytes()).hexdigest()
    return Trained(losses, flat_weights(session), digest)


def one_step(plan: TrainingPlan, dataset: Dataset, wire: Transport) -> NDArray[np.float64]:
    """Return the gradient of the first batch: what a step at rate 1 takes off the weights."""
    session = Session(replace(plan, learning_rate=1.0), dataset, wire)
    before = flat_weights(session)
    session.do_step(next(session.batches(1)))
    return before - flat_weights(session)


def compare(case: Case, wire: Transport) -> None:
    """Raise on rank 0 unless ``case`` on ``wire`` trains as on one rank; all ranks must call it."""
    dataset = dataset_of(case)
    still = plan_of(case, 1.0, 0.0)
    moving = plan_of(case, 0.1, 0.5 if case.workload.has_momentum else 0.0)
    gradient = one_step(still, dataset, wire)
    trained = train(moving, dataset, wire)
    digests = wire.gather_objects((case.mesh.coordinates(wire.rank)[1:], trained.digest))
    if wire.rank:
        return
    # Replicas hold the same bits: as many different ones as there are places in a replica.
    assert len(set(digests)) == case.mesh.pp * case.mesh.tp, case
    alone = run_threads(1, lambda one: one_step(serial(still), dataset, one))[0]
    expected = run_threads(1, lambda one: train(serial(moving), dataset, one))[0]
    _assert_close(
        case, gradient, alone, max(1.0, float(np.abs(alone).max())) * tolerance(case, ONE_STEP)
    )
    scale = max(1.0, float(np.abs(expected.weights).max())) * tolerance(case, ALL_STEPS)
    _assert_close(case, trained.weights, expected.weights, scale)
    # The loss moves by at most its slope, below 10 x (largest input), times what the weights move.
    _assert_close(case, trained.losses, expected.losses, scale * 10)


def _assert_close(case: Case, found: object, expected: object, atol: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=str(case))  # type: ignore[arg-type]  # arrays


def _compare_all(wire: Transport) -> None:
    cases = fixed_cases(wire.size) + seeded_cases(int(sys.argv[1]), wire.size, seed=wire.size)
    for case in cases:
        compare(case, wire)
        wire.gather_objects(None)
    if wire.rank == 0:
        print(f"{len(cases)} cases agree on {wire.size} ranks")


if __name__ == "__main__":
    run_job(TransportName.MPI, None, _compare_all)
