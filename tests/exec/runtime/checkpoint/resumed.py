"""Trainings with checkpoints, stopped and resumed; for tests on threads, and as a program for MPI:
``mpiexec -n P python -m tests.exec.runtime.checkpoint.resumed DIR``.
"""

import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from exec.data.dataset import Dataset
from exec.network.modules import Add, BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sigmoid
from exec.network.network import build, mlp
from exec.nn.weights import Weights
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.runtime.checkpoint.training import CheckpointOptions, Checkpoints, open_checkpoints
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Epoch, Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.workload import Workload

EVERY, EPOCHS, NUM_SAMPLES, BATCH = 3, 2, 61, 6
WIDTHS = (6, 5, 4, 3)
NORMALISED = build(
    "normalised",
    (1, 2, 3),
    [
        ("conv1", Conv2d(4, (2, 2), padding=(1, 0), has_bias=False), ()),
        ("bn1", BatchNorm2d(), ()),
        ("relu1", ReLU(), ()),
        ("conv2", Conv2d(4, (1, 2)), ()),
        ("bn2", BatchNorm2d(), ()),
        ("sum", Add(), ("bn2", "conv2")),
        ("flatten", Flatten(), ()),
        ("fc1", Linear(4), ()),
        ("sigmoid", Sigmoid(), ()),
        ("fc2", Linear(3), ()),
    ],
)
"""It takes the same images as the dense one, and has running statistics."""


def dataset() -> Dataset:
    """Return samples that make ten batches of six and a short one."""
    generator = np.random.Generator(np.random.PCG64(5))
    images = generator.random((NUM_SAMPLES + 4, WIDTHS[0]), dtype=np.float32)
    labels = generator.integers(0, WIDTHS[-1], NUM_SAMPLES + 4)
    cut = NUM_SAMPLES
    return Dataset("random", images[:cut], labels[:cut], images[cut:], labels[cut:], WIDTHS[-1], "")


def plan_of(
    strategy: Strategy, ranks: int, momentum: float = 0.5, mesh: Mesh | None = None,
    **options: object,
) -> TrainingPlan:  # fmt: skip
    """Return a plan of ``strategy``; ``options`` are those of the plan, by name."""
    chosen = PlanOptions(strategy=strategy, **options)  # type: ignore[arg-type]  # by name
    if strategy is Strategy.ASYNC_SERVER:
        chosen = replace(chosen, pause_every=EVERY)
    workload = Workload(mlp(*WIDTHS), BATCH, 8, momentum > 0)
    return TrainingPlan(workload, mesh or mesh_of(strategy, ranks), chosen, "float64", 0.1, momentum, 1)  # fmt: skip


@dataclass(slots=True)
class Trained:
    """What a rank came to: its epochs, its bits, and the samples of each turn it was told of."""

    checkpoints: Checkpoints
    session: Session
    epochs: list[Epoch]
    bits: tuple[bytes, ...]
    resumed: bytes = b""  # the whole network just after it was restored
    turns: list[tuple[int, list[int]]] = field(default_factory=list)


def train(plan: TrainingPlan, directory: Path, wire: Transport, *, resumes: bool) -> Trained:
    """Train for ``EPOCHS`` epochs with checkpoints, as the command line does."""
    samples = dataset()
    options = CheckpointOptions(directory, str(EVERY), keep=100, resumes=resumes)
    checkpoints = open_checkpoints(options, plan, wire)
    checkpoints.check_data(samples)
    session = Session(plan, samples, wire, checkpoints.start)
    checkpoints.restore(session)
    trained = Trained(checkpoints, session, checkpoints.epochs, ())
    trained.resumed = numbers(session.weights())
    for epoch in range(checkpoints.first_epoch, EPOCHS + 1):
        write, order = checkpoints.between(session, epoch), session._order(epoch)
        places = [checkpoints.start.samples if checkpoints.resumes(epoch) else 0]

        def between(steps: int, position: int) -> float:
            trained.turns.append((epoch, order[places[-1] : position].tolist()))  # noqa: B023  # called inside
            places.append(position)  # noqa: B023
            return write(steps, position)  # noqa: B023

        found = session.run_epoch(epoch, between=between, resumes=checkpoints.resumes(epoch))
        checkpoints.end_epoch(session, found, is_last=epoch == EPOCHS)
    velocity = session.buffers.velocity
    trained.bits = (
        session.buffers.parameters.tobytes(),
        b"" if velocity is None else velocity.tobytes(),
        session.buffers.stats.tobytes(),
    )
    return trained


def numbers(weights: Weights) -> bytes:
    """Return the bits of ``weights``."""
    return weights.parameters.tobytes() + weights.stats.tobytes()


def results(trained: Trained) -> list[tuple[int, float, float]]:
    """Return what each epoch came to, but for its time."""
    return [(each.epoch, each.loss, each.test_accuracy) for each in trained.epochs]


def cut_back(directory: Path, other: Path, step: int) -> None:
    """Copy ``directory`` to ``other`` as a kill soon after the checkpoint of ``step`` leaves it."""
    shutil.copytree(directory, other)
    for folder in other.iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


def steps_of(directory: Path) -> list[int]:
    """Return the steps of which there are checkpoints."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in directory.iterdir())


def main(wire: Transport) -> None:
    """Compare trainings stopped in the middle of both epochs with one that was not stopped."""
    root = Path(sys.argv[1])
    for strategy in (Strategy.DATA, Strategy.AVERAGING, Strategy.SERVER):
        plan = plan_of(strategy, wire.size, average_every=4)
        whole = train(plan, root / strategy, wire, resumes=False)
        for step in (6, 15):
            other = root / f"{strategy}-{step}"
            if wire.rank == 0:
                cut_back(root / strategy, other, step)
            wire.gather_objects(None)
            again = train(plan, other, wire, resumes=True)
            assert again.checkpoints.record()["resumed_from_step"] == step
            assert (again.bits, results(again)) == (whole.bits, results(whole)), (strategy, step)
    if wire.rank == 0:
        print(f"the same bits on {wire.size} ranks")


if __name__ == "__main__":
    run_job(TransportName.MPI, None, main)
