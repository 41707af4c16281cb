"""A training session of one rank: the programs of a full and of the last batch, and the epochs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from exec.data.dataset import Dataset
from exec.nn.backend import DTYPES, Indices
from exec.nn.weights import Weights
from exec.plan.collectives import expand, scratch_elements
from exec.plan.epoch import plan_epoch, plan_rest
from exec.plan.layout import layout_of
from exec.plan.samples import image_starts, sample_starts, shared_rows
from exec.program.check import check_program
from exec.program.ops import Compute, Kernel
from exec.program.peers import split_start
from exec.program.program import Program, Role
from exec.program.timeline import Span
from exec.runtime.backend import AnyLoss, AnyStep, Backend, Examine, Turn
from exec.runtime.buffers import Buffers
from exec.runtime.comm import Queue
from exec.runtime.opening import backend_of
from exec.runtime.pacer import Pacer
from exec.runtime.report import check_memory, compute_and_held_s, peak_nbytes
from exec.runtime.start import Between, Start
from exec.runtime.step_times import mean_step_times_s
from exec.runtime.training_plan import TrainingPlan
from exec.runtime.weights import gather_weights
from exec.runtime.windows import share_windows
from exec.transport.protocol import Transport

_CHECKED_TICKETS = 64  # workers take tickets alike, so a legal few stand for many
TIMED_EVERY = 64  # one step in so many is done with a clock around every op
FIRST_TIMED = 4  # the first of them, so that a short run has one too


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch came to: the slowest rank's ``time_s`` and all ranks' ``sent_bytes`` in training.

    The test is in neither, nor, after a resume, what came before it in ``sent_bytes``. The loss is
    the mean over the samples, each as it was when trained on.
    """

    epoch: int
    loss: float
    test_accuracy: float
    time_s: float
    sent_bytes: int = 0


@dataclass(slots=True)
class _Bound:
    """One program bound, with its ``losses``; ``times_s`` are those of runs not timed inside.

    Of its ``turns``, one in ``TIMED_EVERY`` of an epoch is timed inside, beginning with
    ``first_timed``; ``computed_s`` and ``held_s`` are the sums over those.
    """

    program: Program
    role: Role
    step: AnyStep
    losses: Sequence[AnyLoss]
    queue: Queue
    first_timed: int = FIRST_TIMED
    times_s: list[float] = field(default_factory=list)
    turns: int = 0
    num_timed: int = 0
    computed_s: float = 0.0
    held_s: float = 0.0


class Session:
    """One rank's share of a training: construct it on all ranks together, then run epochs.

    ``spans`` are those of the ``num_timed`` turns that were done with a clock around every op.
    With a ``start`` the first epoch can begin there; ``last_program`` is that of the last turn.
    ``backend`` is where the arrays are; unless given it is opened as the plan says.
    ``peak_growth_nbytes`` is by how much the process has outgrown the most that it was in before,
    when the first epoch was trained and not yet tested.
    """

    def __init__(
        self, plan: TrainingPlan, dataset: Dataset, transport: Transport, start: Start = Start(),
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.dataset, self.transport = plan, dataset, transport
        self.backend = backend or backend_of(plan, transport)
        self._peak_before = peak_nbytes()
        self.peak_growth_nbytes: int | None = None
        workload, mesh, options = plan.workload, plan.mesh, plan.options
        dp_rank, stage, tp_rank = mesh.coordinates(transport.rank)
        num_samples = len(dataset.train_labels)
        segments = plan_epoch(workload, mesh, options, num_samples)
        rest = plan_rest(
            workload, mesh, options, num_samples, segments, start.samples, start.planned_from
        )
        self.planned_from = rest.planned_from
        both = (*segments, *rest.planned)
        samples = {id(each.program): each.samples for each in both}
        expanded = {id(each.program): each.program for each in both}
        expanded = {key: expand(program) for key, program in expanded.items()}
        programs = list(expanded.values())
        for program in programs:
            check_program(program.with_tickets(_CHECKED_TICKETS))
        self.program: Program = programs[0]
        roles = [program.role_of(transport.rank) for program in programs]
        trainers = self.program.trainers
        self.place = dp_rank - trainers.start if dp_rank in trainers else None
        self.owned = self.program.owned(transport.rank)
        self.counts_loss = self.place is not None and stage == mesh.pp - 1 and tp_rank == 0
        scratch = max(map(scratch_elements, programs))
        check_memory(roles[0].nbytes + scratch * workload.itemsize, transport, self.backend.device)
        self.buffers = Buffers(
            workload, layout_of(
                workload.network, mesh, stage, tp_rank, options
            ), roles[0],
            max(map(_most_rows, roles)), scratch, plan.dtype, transport.rank,
            share_windows(self.program, roles[0], plan.dtype, transport.rank, self.backend.sharing),
            self.backend.device,
        )  # fmt: skip
        self.buffers.initialise(plan.seed, dp_rank if plan.has_independent_starts else 0)
        if self.program.is_shared:  # nobody may train what another has still to initialise
            transport.gather_objects(None)
        self._num_samples = num_samples
        self._feed = self.backend.feed(
            dataset.train_images.astype(DTYPES[plan.dtype], copy=False), dataset.train_labels
        )
        self._examine: Examine | None = None
        self._test_images = dataset.test_images.astype(DTYPES[plan.dtype], copy=False)
        self.backend.connect(programs)
        self._slowness = dict(plan.slowness).get(transport.rank, 1.0)
        self._pacer = (
            Pacer(plan.pacing, plan.seed, transport.rank, self._slowness) if plan.pacing else None
        )
        self.arrivals: list[int] = []
        replayed = iter(plan.replayed[dp_rank]) if dp_rank < len(plan.replayed) else None
        bound = {key: self._bind(program, samples[key], replayed) for key, program in expanded.items()}  # fmt: skip
        for key, each in bound.items():  # programs that are seldom done are timed too
            turns = sum(segment.times for segment in segments if id(segment.program) == key)
            if key != id(segments[0].program) and not each.program.tickets:
                each.first_timed = min(FIRST_TIMED, max(turns - 1, 0))
        self._segments = [(each, bound[id(each.program)]) for each in segments]
        self._left = [(each, bound[id(each.program)]) for each in rest.left]
        self._start, self.carried_loss = start, 0.0
        self._began_s = 0.0
        self.epoch_steps = 0
        self.last_program = segments[-1].program
        self._bound = list(bound.values())
        self.spans: list[Span] = []

    def close(self) -> None:
        """Give back the groups of ranks, and arrays that they share, which nobody may use after that.

        Needed only where sessions follow one another.
        """
        self.backend.close()

    def _bind(self, program: Program, samples: int, replayed: Iterator[int] | None) -> _Bound:
        plan, rank = self.plan, self.transport.rank
        role = program.role_of(rank)
        images: tuple[int, ...] = (0,)
        starts = images  # a ticket's samples are one rank's
        shared = (len(program.trainers), plan.options, samples)
        if self.place is not None and not role.until:
            starts = images = sample_starts(*shared, self.place)
            if self.buffers.layout.exchange is not None:
                tp_rank = plan.mesh.coordinates(rank)[2]
                images = image_starts(*shared, self.place, plan.mesh.tp, tp_rank)
        together = shared_rows(*shared) if plan.options.sync_batchnorm else ()
        queue = Queue(len(program.trainers), program.tickets, 0, self.arrivals, replayed)
        turn = Turn(
            role.samples, samples // max(program.tickets, 1), starts, images, together, queue,
            plan.learning_rate, plan.momentum, self._slowness, self._pacer,
        )  # fmt: skip
        return _Bound(program, role, *self.backend.bind(program, self.buffers, turn), queue)

    def synchronize(self) -> None:
        """Return when all steps that were begun are done; on the host they are."""
        self.backend.synchronize()

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has handed to the wire."""
        return self.backend.nbytes_sent

    @property
    def tickets(self) -> tuple[int, ...]:
        """How many tickets each program of an epoch has."""
        return tuple(segment.program.tickets for segment, _ in self._segments)

    def _order(self, epoch: int) -> Indices:
        """Return the order in which ``epoch`` takes the samples: every sample once."""
        seeds = np.random.SeedSequence([self.plan.seed, 1 << 32, epoch])
        return np.random.Generator(np.random.PCG64(seeds)).permutation(self._num_samples)

    def batches(self, epoch: int) -> Iterator[Indices]:
        """Yield the sample indices of each global batch of ``epoch``."""
        order, size = self._order(epoch), self.plan.workload.global_batch
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def do_step(self, indices: Indices, *, is_timed: bool = False) -> None:
        """Train on the samples ``indices``, the full batch of an epoch's first program."""
        bound = self._bound[0]
        self._feed.begin(indices)
        self._feed.take(0, len(indices))
        if is_timed:
            self._time(bound)
        else:
            bound.step.run()

    def do_steps(self, order: Indices) -> None:
        """Train on full batches of the samples ``order``, one after the other; return when all are begun."""
        size = self.plan.workload.global_batch
        self._feed.begin(order)
        for start in range(0, len(order) - size + 1, size):
            self._feed.take(start, start + size)
            self._bound[0].step.run()

    def run_epoch(
        self, epoch: int, progress: Callable[[int], None] = lambda _: None,
        between: Between = lambda _, __: 0.0, *, resumes: bool = False,
    ) -> Epoch:  # fmt: skip
        """Train on every sample once, then test; ``progress`` gets the number of samples seen.

        With ``resumes`` the epoch goes on where the session starts.
        """
        segments, start = (self._left, self._start) if resumes else (self._segments, Start())
        if not resumes:
            self.planned_from = 0
        self._set_losses(start)
        self._feed.begin(self._order(epoch))
        position, steps, num_runs = start.samples, start.steps, 0
        sent_before, clock = self.nbytes_sent, self.backend.clock()
        self._began_s = perf_counter() - start.time_s
        for segment, bound in segments:
            self.last_program = segment.program
            for _ in range(segment.times):
                self.transport.check()
                num_timed = bound.num_timed
                if bound.program.tickets:
                    self._serve_tickets(bound, position, segment.samples, progress)
                else:
                    self._feed.take(position, position + segment.samples)
                    self._turn(bound)
                is_timed = bound.num_timed > num_timed and not bound.program.tickets
                position += segment.samples
                steps += segment.steps
                clock.end_turn(None if is_timed else bound.times_s)
                if num_runs % TIMED_EVERY == 0:
                    progress(position)
                num_runs += 1
                if held_up_s := between(steps, position):
                    self._began_s += held_up_s
                    clock.start()
        clock.settle()
        self.backend.synchronize()
        self.epoch_steps, time_s = steps, self.epoch_time_s()
        if self.peak_growth_nbytes is None:
            self.peak_growth_nbytes = peak_nbytes() - self._peak_before
        sent = self.nbytes_sent - sent_before
        totals = self.transport.gather_objects((self.loss_sum(), sent, time_s))
        losses, sents, times_s = zip(*totals, strict=True)
        loss = (self.carried_loss + sum(losses)) / self._num_samples
        return Epoch(epoch, loss, self.test_accuracy(), max(times_s), sum(sents))

    def epoch_time_s(self) -> float:
        """Return how long the epoch has been trained so far, what came between turns left out."""
        return perf_counter() - self._began_s

    def losses(self) -> list[list[float]]:
        """Return the sums of each loss of this rank's programs in the epoch so far."""
        return [[loss.total for loss in bound.losses] for bound in self._bound]

    def loss_sum(self) -> float:
        """Return what this rank adds to the epoch's loss, summed over samples."""
        if not self.counts_loss:
            return 0.0
        return sum(
            bound.role.samples * loss.total for bound in self._bound for loss in bound.losses
        )

    def _set_losses(self, start: Start) -> None:
        self.carried_loss = start.carried_loss
        for i, bound in enumerate(self._bound):
            for j, loss in enumerate(bound.losses):
                loss.total = start.losses[i][j] if start.losses else 0.0

    def _serve_tickets(
        self, bound: _Bound, position: int, samples: int, progress: Callable[[int], None]
    ) -> None:
        """Do the turns of a program with tickets: a server's, or as many as this worker gets."""
        program, role, bound.queue.num_granted = bound.program, bound.role, 0
        if not role.until:
            for turn in range(role.times):
                self._turn(bound)
                if turn % TIMED_EVERY == 0:
                    progress(turn * samples // role.times)
            return
        assert self.place is not None
        granted = self.buffers.arrays["param"][-1:]
        rows, ticket, turn = samples // program.tickets, self.place, 0
        while 0 <= ticket < program.tickets:
            start = position + ticket * rows
            self._feed.take(start, start + rows)
            self._turn(bound)
            ticket, turn = int(self.buffers.look(granted)[0]), turn + 1

    def _turn(self, bound: _Bound) -> None:
        bound.turns += 1
        if (bound.turns - 1) % TIMED_EVERY == bound.first_timed:
            self._time(bound)
        else:
            bound.step.run()

    def _time(self, bound: _Bound) -> None:
        """Do one turn with a clock around every op."""
        known = len(self.spans)
        bound.num_timed += 1
        bound.step.run_timed(self.spans)
        computed_s, held_s = compute_and_held_s(self.spans[known:])
        bound.computed_s += computed_s
        bound.held_s += held_s

    @property
    def late_share(self) -> float:
        """The share of its turns by which padded compute took longer than it was given."""
        return self._pacer.late_s / (self._pacer.turns_s or 1.0) if self._pacer else 0.0

    @property
    def num_timed(self) -> int:
        """How many turns were done with a clock around every op."""
        return sum(bound.num_timed for bound in self._bound)

    def mean_turn(self) -> tuple[float, float]:
        """Return what a turn computes and how long it is held up, in seconds.

        Each program counts by its turns, not by those of them that were timed.
        """
        known = [bound for bound in self._bound if bound.num_timed]
        turns = sum(bound.turns for bound in known) or 1
        shares = [(bound, bound.turns / bound.num_timed / turns) for bound in known]
        return (
            sum(share * bound.computed_s for bound, share in shares),
            sum(share * bound.held_s for bound, share in shares),
        )

    def step_times_s(self) -> list[float]:
        """Return the wall times of this rank's full batches, timed ones left out."""
        return mean_step_times_s(
            [(segment, bound.times_s) for segment, bound in self._segments],
            self.plan.workload.global_batch,
        )

    def weights(self) -> Weights:
        """Return the whole network's weights, on every rank."""
        return gather_weights(self.buffers, self.transport, self.owned)

    def test_accuracy(self) -> float:
        """Return the share of test samples classified rightly; every rank tests some of them."""
        rank, size, total = self.transport.rank, self.transport.size, len(self._test_images)
        if self._examine is None:
            own = slice(split_start(total, size, rank), split_start(total, size, rank + 1))
            self._examine = self.backend.examiner(
                self.plan.workload.network, self._test_images[own], self.dataset.test_labels[own]
            )
        correct = self._examine(self.weights())
        return sum(self.transport.gather_objects(correct)) / total


def _most_rows(role: Role) -> int:
    """Return the most samples of a microbatch of ``role``, 0 if it does not train."""
    return max((op.shape.n for op in role.ops if isinstance(op, Compute) and op.kernel is not Kernel.UPDATE), default=0)  # fmt: skip
