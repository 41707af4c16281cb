"""One trial: a training of one configuration by all the ranks of a group."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from exec.data.dataset import Dataset
from exec.errors import UsageError
from exec.nn.inference import num_correct
from exec.nn.weights import Weights
from exec.plan.layout import check_mesh
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.job import AgreedError, together
from exec.runtime.placement import placed
from exec.runtime.session import Epoch, Session
from exec.runtime.source import check_batch
from exec.runtime.training_plan import TrainingPlan
from exec.search.record import EpochResult, State, TrialResult
from exec.search.space import Config, Space
from exec.transport.protocol import Transport
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Trial:
    """A task: train ``config`` as number ``index``, in the search's ``session``."""

    index: int
    config: Config
    session: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to; no weights if it failed."""

    result: TrialResult
    weights: Weights | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What all trials have in common; ``dataset`` tests on the validation samples."""

    dataset: Dataset
    dtype: str
    momentum: float
    seed: int

    def plan(self, config: Config, ranks: int) -> TrainingPlan:
        """Return the plan of a data-parallel training on ``ranks`` ranks.

        Raises:
            UsageError: the batch is too large for the samples or too small for the ranks.
        """
        network = config.network(self.dataset.num_features, self.dataset.num_classes)
        itemsize = 8 if self.dtype == "float64" else 4
        workload = Workload(network, config.batch, itemsize, self.momentum > 0)
        mesh = Mesh(dp=ranks)
        check_mesh(workload, mesh, PlanOptions())
        check_batch(self.dataset, config.batch)
        return TrainingPlan(workload, mesh, dtype=self.dtype, learning_rate=config.learning_rate,
                            momentum=self.momentum, seed=self.seed)  # fmt: skip

    def check(self, space: Space, ranks: int) -> None:
        """Raise :class:`UsageError` unless every point of ``space`` can be trained on ``ranks``."""
        for end in (0, 1):
            point = {name: dimension.ends[end] for name, dimension in space.dimensions.items()}
            self.plan(space.config(point), ranks)


def hold_back(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Return ``dataset`` with a ``share`` of its training samples, drawn at random, as test samples.

    Raises:
        UsageError: no sample would be left on one of the sides.
    """
    total = len(dataset.train_labels)
    count = round(share * total)
    if not 0 < count < total:
        raise UsageError(
            f"validation must leave samples on both sides of the {total} training samples of "
            f"{dataset.name}, got {share}"
        )
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1 << 33]))).permutation(total)  # fmt: skip
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return replace(
        dataset, train_images=dataset.train_images[kept], train_labels=dataset.train_labels[kept],
        test_images=dataset.train_images[held], test_labels=dataset.train_labels[held],
    )  # fmt: skip


def run_trial(
    trial: Trial, setting: Setting, wire: Transport, clock: Callable[[], float], *, group: int
) -> Outcome:  # fmt: skip
    """Train ``trial`` on all ranks of ``wire``, which call this together; ``clock`` gives seconds.

    A training that diverges, or that cannot be set up, is a trial that failed, not an error.
    """
    started_s = clock()
    done: list[Epoch] = []
    try:
        # A training that diverges overflows; the reason says so once, NumPy would at every op.
        with np.errstate(over="ignore", invalid="ignore"):
            weights, reason = _train(trial.config, setting, wire, done)
    except AgreedError as error:
        weights, reason = None, str(error)
    result = TrialResult(
        index=trial.index, config=trial.config, state=State.FAILED if reason else State.DONE,
        reason=reason, accuracy=None if reason else done[-1].test_accuracy,
        loss=None if reason else done[-1].loss,
        epochs=tuple(EpochResult(epoch=each.epoch, loss=each.loss, accuracy=each.test_accuracy,
                                 time_s=each.time_s) for each in done),
        train_time_s=sum(each.time_s for each in done), started_s=started_s, ended_s=clock(),
        group=group, session=trial.session,
    )  # fmt: skip
    return Outcome(result, weights)


def _train(
    config: Config, setting: Setting, wire: Transport, done: list[Epoch]
) -> tuple[Weights | None, str]:
    """Return the weights, or why there are none; ``done`` gets the epochs."""
    plan = setting.plan(config, wire.size)
    plan = placed(plan, None, wire, chooses=True)
    training = together(wire, lambda: Session(plan, setting.dataset, wire))
    reason = ""
    for number in range(1, config.epochs + 1):
        epoch = training.run_epoch(number)
        if not math.isfinite(epoch.loss):  # the same number on every rank, so all end here
            reason = f"the loss of epoch {number} is {epoch.loss}"
            break
        done.append(epoch)
    weights = None if reason else training.weights()
    training.close()
    return weights, reason


def weights_label(dataset: Dataset, outcome: Outcome) -> dict[str, str]:
    """Return what is written into a trial's weights: their network, and how they test at last."""
    result, weights = outcome.result, outcome.weights
    assert weights is not None
    images = dataset.test_images.astype(weights.parameters.dtype, copy=False)
    correct = num_correct(weights, images, dataset.test_labels)
    return {
        "net": weights.network.name,
        "data": dataset.name,
        "epoch": str(result.config.epochs),
        "test_accuracy": str(correct / len(images)),
    }
