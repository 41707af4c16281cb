"""A training session of one rank: the programs of a full and of the last batch, and the epochs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from exec.data.dataset import Dataset
from exec.nn.backend import DTYPES, Indices
from exec.nn.optimiser import Sgd
from exec.plan.collectives import expand, scratch_elements
from exec.plan.layout import layout_of
from exec.plan.schedule import num_slots
from exec.plan.step import PlanOptions, plan_step
from exec.program.check import check_program
from exec.program.mesh import Mesh
from exec.program.peers import split_size, split_start
from exec.program.program import Program
from exec.program.timeline import Span
from exec.runtime.buffers import Buffers
from exec.runtime.comm import Wire
from exec.runtime.kernels import Feed, KernelBinder
from exec.runtime.step import Step, bind_step
from exec.runtime.weights import Weights, gather_weights, num_correct
from exec.transport.protocol import Transport
from exec.workload import Workload

TIMED_EVERY = 64  # one step in so many is done with a clock around every op
FIRST_TIMED = 4  # the first of them, so that a short run has one too


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to train and how to share it; ``seed`` gives weights and the order of samples."""

    workload: Workload
    mesh: Mesh
    options: PlanOptions = field(default_factory=PlanOptions)
    dtype: str = "float32"
    learning_rate: float = 0.5
    momentum: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch came to; ``time_s`` is that of training, without the test."""

    epoch: int
    loss: float
    test_accuracy: float
    time_s: float


@dataclass(slots=True)
class _Bound:
    """One batch size's step; ``binder`` holds its losses."""

    step: Step
    binder: KernelBinder
    batch: int


class Session:
    """One rank's share of a training: construct it on all ranks together, then run epochs.

    ``step_times_s`` are the wall times of this rank's full steps, timed ones left out; ``spans``
    are those of the timed steps.
    """

    def __init__(self, plan: TrainingPlan, dataset: Dataset, transport: Transport) -> None:
        self.plan, self.dataset, self.transport = plan, dataset, transport
        workload, mesh, options = plan.workload, plan.mesh, plan.options
        dp_rank, stage, tp_rank = mesh.coordinates(transport.rank)
        self.is_owner = dp_rank == 0
        self.counts_loss = stage == mesh.pp - 1 and tp_rank == 0
        batches = [workload.global_batch]
        if rest := len(dataset.train_labels) % workload.global_batch:
            batches.append(rest)
        programs = [
            expand(plan_step(replace(workload, global_batch=batch), mesh, options))
            for batch in batches
        ]
        for program in programs:
            check_program(program)
        self.program: Program = programs[0]
        layout = layout_of(workload.widths, mesh, stage, tp_rank)
        slots = num_slots(options.schedule, stage, mesh.pp, options.num_microbatches)
        replica_rows = split_size(workload.global_batch, mesh.dp, dp_rank)
        self.buffers = Buffers(
            workload, layout, slots, split_size(replica_rows, options.num_microbatches, 0),
            max(map(scratch_elements, programs)), plan.dtype,
        )  # fmt: skip
        self.buffers.initialise(plan.seed)
        self._feed = Feed(
            dataset.train_images.astype(DTYPES[plan.dtype], copy=False),
            dataset.train_labels,
            np.arange(0),
        )
        self._test_images = dataset.test_images.astype(DTYPES[plan.dtype], copy=False)
        self._wire = Wire.connect(transport, programs[0])
        self._bound = [
            self._bind(program, batch, self._wire)
            for program, batch in zip(programs, batches, strict=True)
        ]
        self.step_times_s: list[float] = []
        self.spans: list[Span] = []

    def close(self) -> None:
        """Give back the groups of ranks; needed only where sessions follow one another."""
        for group in self._wire.groups.values():
            group.close()

    def _bind(self, program: Program, batch: int, wire: Wire) -> _Bound:
        plan = self.plan
        sgd = Sgd(self.buffers.parameters, self.buffers.gradient, self.buffers.velocity,
                  plan.learning_rate, plan.momentum)  # fmt: skip
        starts = sample_starts(plan.mesh, plan.options, batch, self.transport.rank)
        binder = KernelBinder(self.buffers, self._feed, sgd, batch, starts)
        return _Bound(bind_step(program, wire, self.buffers, binder), binder, batch)

    def batches(self, epoch: int) -> Iterator[Indices]:
        """Yield the sample indices of each global batch of ``epoch``: every sample once."""
        seeds = np.random.SeedSequence([self.plan.seed, 1 << 32, epoch])
        order = np.random.Generator(np.random.PCG64(seeds)).permutation(len(self._feed.labels))
        size = self.plan.workload.global_batch
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def do_step(self, indices: Indices, *, is_timed: bool = False) -> None:
        """Train on the samples ``indices``: a full batch, or an epoch's last."""
        bound = self._bound[len(indices) != self.plan.workload.global_batch]
        self._feed.indices = indices
        if is_timed:
            bound.step.run_timed(self.spans)
        else:
            bound.step.run()

    def run_epoch(self, epoch: int, progress: Callable[[int], None] = lambda _: None) -> Epoch:
        """Train on every sample once, then test; ``progress`` gets the number of steps done."""
        for bound in self._bound:
            for loss in bound.binder.losses:
                loss.total = 0.0
        full = self.plan.workload.global_batch
        start_s = before_s = perf_counter()
        for i, indices in enumerate(self.batches(epoch)):
            is_timed = i % TIMED_EVERY == FIRST_TIMED
            self.do_step(indices, is_timed=is_timed)
            now_s = perf_counter()
            if not is_timed and len(indices) == full:
                self.step_times_s.append(now_s - before_s)
            before_s = now_s
            if i % TIMED_EVERY == 0:
                progress(i + 1)
        time_s = perf_counter() - start_s
        return Epoch(epoch, self._epoch_loss(), self.test_accuracy(), time_s)

    def _epoch_loss(self) -> float:
        """Return the mean loss over the epoch's samples, each as it was when trained on."""
        total = sum(
            bound.batch * loss.total for bound in self._bound for loss in bound.binder.losses
        )
        totals = self.transport.gather_objects(total if self.counts_loss else 0.0)
        return sum(totals) / len(self._feed.labels)

    def weights(self) -> Weights:
        """Return the whole network's weights, on every rank."""
        return gather_weights(self.buffers, self.transport, is_owner=self.is_owner)

    def test_accuracy(self) -> float:
        """Return the share of test samples classified rightly; every rank tests some of them."""
        rank, size, total = self.transport.rank, self.transport.size, len(self._test_images)
        start, stop = split_start(total, size, rank), split_start(total, size, rank + 1)
        correct = num_correct(
            self.weights(), self._test_images[start:stop], self.dataset.test_labels[start:stop]
        )
        return sum(self.transport.gather_objects(correct)) / total


def sample_starts(mesh: Mesh, options: PlanOptions, batch: int, rank: int) -> tuple[int, ...]:
    """Return where in the global batch each microbatch of ``rank`` begins."""
    dp_rank = mesh.coordinates(rank)[0]
    replica_start = split_start(batch, mesh.dp, dp_rank)
    rows = split_size(batch, mesh.dp, dp_rank)
    count = options.num_microbatches
    return tuple(replica_start + split_start(rows, count, i) for i in range(count))
