"""The checkpoints of one training: opened, resumed from, and written when they are due.

A resumed training goes on with the weights and at the place in the data of the checkpoint. Under
the same plan each rank has its own bits back; under another one each gets its share of the whole
network, of which replicas that differ are the mean, velocities too. Ranks that held a stale copy,
as workers of an asynchronous server do, get the weights as they are.
"""

import hashlib
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from exec.data.dataset import Dataset
from exec.errors import UsageError
from exec.plan.checkpoint import plan_checkpoint
from exec.plan.stages import stage_nodes
from exec.plan.strategy import Strategy
from exec.plan.window import slice_of
from exec.program.ops import Collective, CollectiveKind, Lane, Op, Save
from exec.program.peers import Part, resolve_part
from exec.program.timeline import Span
from exec.runtime.buffers import Buffers
from exec.runtime.checkpoint.find import Found, finished
from exec.runtime.checkpoint.interval import Interval, parse_interval
from exec.runtime.checkpoint.manifest import PlanRecord, Progress, Role
from exec.runtime.checkpoint.reshard import restore
from exec.runtime.checkpoint.shard import Held
from exec.runtime.checkpoint.store import KEEP, Store, begin, resume
from exec.runtime.job import AgreedError, together
from exec.runtime.session import Epoch, Session
from exec.runtime.start import Between, Start
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """Where checkpoints go, how often one is written, how many are kept, and whether to resume."""

    directory: Path
    every: str = "epoch"
    keep: int = KEEP
    resumes: bool = False

    def check(self, strategy: Strategy) -> None:
        """Raise :class:`UsageError` unless the options work with ``strategy``."""
        interval = parse_interval(self.every)
        if self.keep < 1:
            raise UsageError(f"keep must be at least 1, got {self.keep}")
        if strategy is Strategy.ASYNC_SERVER and interval and interval.every_s:
            raise UsageError(
                f"checkpoint-every must be steps or epoch for {strategy}, whose ranks have to plan "
                f"when they meet, got {self.every}"
            )
        if self.directory.exists() and not self.directory.is_dir():
            raise UsageError(f"checkpoint must be a folder, got {self.directory}, which is a file")

    def pause_every(self, strategy: Strategy) -> int:
        """Return after how many steps ranks that take tickets must meet, 0 for once an epoch."""
        interval = parse_interval(self.every)
        return interval.every_steps or 0 if strategy is Strategy.ASYNC_SERVER and interval else 0


@dataclass(slots=True)
class Checkpoints:
    """One rank's checkpoints; made by :func:`open_checkpoints`, and without a ``store`` none.

    ``epochs`` are the results of those that are over, ``num_steps`` the steps before the epoch
    under way, and ``start`` is where in it a resumed training goes on. ``notices`` are for people.
    """

    plan: TrainingPlan
    transport: Transport
    store: Store | None = None
    found: Found | None = None
    interval: Interval | None = None
    data: str = ""
    start: Start = field(default_factory=Start)
    epochs: list[Epoch] = field(default_factory=list)
    num_steps: int = 0
    notices: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    _marked: tuple[int, float] = (0, 0.0)

    @property
    def first_epoch(self) -> int:
        """The epoch with which this training begins or goes on."""
        return self.found.manifest.progress.epoch if self.found else 1

    def resumes(self, epoch: int) -> bool:
        """Say whether ``epoch`` is to go on where the checkpoint was written."""
        return epoch == self.first_epoch and self.start.samples > 0

    def check_data(self, dataset: Dataset) -> None:
        """Raise unless the checkpoint is of a training on ``dataset``."""
        if self.store is None:
            return
        digest = hashlib.sha256(dataset.train_images.tobytes() + dataset.train_labels.tobytes())
        self.data = f"{dataset.name} of {len(dataset.train_labels)} samples, sha256 {digest.hexdigest()[:16]}"  # fmt: skip
        if self.found and self.found.manifest.progress.data != self.data:
            raise AgreedError(
                f"data must be {self.found.manifest.progress.data}, those of the checkpoint "
                f"{self.found.folder}, got {self.data}; resume with those, or train anew in "
                f"another folder"
            )

    def restore(self, session: Session) -> None:
        """Give ``session`` what the checkpoint holds; all ranks must call it together."""
        self._marked = self.num_steps, perf_counter()
        if self.interval:
            self.interval.start(self.num_steps + self.start.steps)
        found = self.found
        if found is None or self.store is None:
            return
        workload, record, rank = self.plan.workload, self.store.plan, self.transport.rank
        buffers, part = session.buffers, _saved_part(self._ops(session))
        program = session.program
        if part is None and program.sharers:  # of another window than the first, which alone saves
            size, mesh = int(buffers.flat("param").size), program.mesh
            part = resolve_part(slice_of("param", size, mesh.dp, program.sharers), rank, mesh)
        holds_all = part is None and not program.is_shared
        held = _held(buffers, part, holds_all=holds_all)
        # Where ranks share memory, all must have set its first weights before one sets these.
        self.transport.gather_objects(None)
        together(self.transport, lambda: restore(found.folder, found.manifest, workload, record, rank, held))  # fmt: skip
        if buffers.device is not None:  # what was filled are copies
            _put_back(buffers, part, held)

    def between(self, session: Session, epoch: int) -> Between:
        """Return what ``session`` is to call between two turns of ``epoch``."""
        interval, total = self.interval, len(session.dataset.train_labels)
        if interval is None:
            return lambda _, __: 0.0

        def write(steps: int, samples: int) -> float:
            if not interval.is_due(self.num_steps + steps) or samples == total:
                return 0.0
            state = {
                "losses": session.losses(),
                "loss_sum": session.loss_sum(),
                "carried_loss": session.carried_loss,
                "time_s": session.epoch_time_s(),
            }
            return self._write(session, epoch, steps, samples, state)

        return write

    def end_epoch(self, session: Session, epoch: Epoch, *, is_last: bool) -> None:
        """Note the results of ``epoch``, and write a checkpoint if one is due or it is the last."""
        self.num_steps += session.epoch_steps
        self.epochs.append(epoch)
        if self.interval is None or self.interval.is_due(self.num_steps) or is_last:
            self._write(session, epoch.epoch + 1, 0, 0, {})

    def record(self) -> dict[str, Any]:
        """Return what resuming and writing came to, for the record of the training."""
        if self.store is None:
            return {}
        written = self.store.written
        cost = {
            "count": len(written),
            "nbytes": int(statistics.median(each.total_nbytes for each in written)),
            "time_s": statistics.median(each.time_s for each in written),
        } if written else None  # fmt: skip
        resumed = self.found.manifest.progress.num_steps if self.found else None
        return {"resumed_from_step": resumed, "checkpoint": cost}

    def _write(
        self, session: Session, epoch: int, steps: int, samples: int, state: dict[str, Any]
    ) -> float:
        """Do the checkpoint's program, and return how long it took.

        The store writes where the program saves, and is its barrier too: it gathers what went
        wrong from all ranks.
        """
        if self.store is None:
            return 0.0
        start_s = perf_counter()
        num_steps = self.num_steps + steps
        ops = self._ops(session)
        for op in ops:
            if isinstance(op, Collective) and op.kind is CollectiveKind.BROADCAST:
                array = session.buffers.part(op.part)
                known = session.buffers.look(array)
                self.transport.run_collective(op.kind, known, [], op.root)
                if session.buffers.device is not None:
                    session.buffers.put(array, known)
        progress = Progress(
            num_steps=num_steps, epoch=epoch, epoch_step=steps, epoch_samples=samples,
            planned_from=session.planned_from if samples else 0, data=self.data,
            seed=self.plan.seed, epochs=[asdict(each) for each in self.epochs],
        )  # fmt: skip
        held = _held(session.buffers, _saved_part(ops))
        self.store.write(progress, held, state)
        end_s = perf_counter()
        self.spans.append(Span(self.transport.rank, Lane.COMPUTE, "save", start_s, end_s))
        if self.interval:
            marked_steps, marked_s = self._marked
            each_s = max(start_s - marked_s, 1e-9) / max(num_steps - marked_steps, 1)
            self.interval.agree(num_steps, self.transport.gather_objects(each_s))
        self._marked = num_steps, perf_counter()
        return perf_counter() - start_s

    def _ops(self, session: Session) -> list[Op]:
        program = plan_checkpoint(session.last_program, self.plan.options.strategy)
        return list(program.ops(self.transport.rank))


def open_checkpoints(
    options: CheckpointOptions | None, plan: TrainingPlan, transport: Transport
) -> Checkpoints:
    """Return the checkpoints of a training by ``plan``; all ranks must call it together.

    Raises:
        AgreedError: there are some where none should be; none is good; or they are of another
            network or seed.
    """
    if options is None:
        return Checkpoints(plan, transport)
    directory, record = options.directory, plan_record(plan)
    arguments = directory, plan.workload, plan.dtype, record, transport
    checkpoints = Checkpoints(plan, transport, interval=parse_interval(options.every))
    if options.resumes and together(transport, lambda: _has_finished(directory)):
        checkpoints.store, checkpoints.found = resume(*arguments, keep=options.keep)
        _go_on(checkpoints, checkpoints.found, record)
        return checkpoints
    checkpoints.store = begin(*arguments, keep=options.keep)
    if options.resumes:
        checkpoints.notices.append(f"no finished checkpoint in {directory}: starting anew")
    return checkpoints


def plan_record(plan: TrainingPlan) -> PlanRecord:
    """Return all of ``plan`` that says in which order a rank does what."""
    mesh, options = plan.mesh, asdict(plan.options)
    strategy, cuts = options.pop("strategy"), options.pop("stages")
    options |= {"batch": plan.workload.global_batch, "independent_starts": plan.has_independent_starts}  # fmt: skip
    stages = stage_nodes(plan.workload.network, mesh.pp, cuts)
    return PlanRecord(strategy=strategy, dp=mesh.dp, pp=mesh.pp, tp=mesh.tp,
                      stages=tuple(stage.start for stage in stages[1:]), options=options)  # fmt: skip


def _go_on(checkpoints: Checkpoints, found: Found, record: PlanRecord) -> None:
    """Set where a resumed training goes on; under another plan losses are known as a sum only."""
    progress, plan = found.manifest.progress, checkpoints.plan
    if progress.seed != plan.seed:
        raise AgreedError(
            f"seed must be {progress.seed}, that of the checkpoint {found.folder}, got {plan.seed}; "
            f"resume with that, or train anew in another folder"
        )
    checkpoints.epochs = [Epoch(**each) for each in progress.epochs]
    checkpoints.num_steps = progress.num_steps - progress.epoch_step
    states = [shard.state for shard in found.manifest.shards]
    is_same = found.manifest.plan == record
    if progress.epoch_samples and is_same:
        state = states[checkpoints.transport.rank]
        checkpoints.start = Start(
            progress.epoch_samples, progress.epoch_step, progress.planned_from,
            tuple(map(tuple, state["losses"])), state["carried_loss"], state["time_s"],
        )  # fmt: skip
    elif progress.epoch_samples:
        carried = states[0]["carried_loss"] + sum(state["loss_sum"] for state in states)
        checkpoints.start = Start(
            progress.epoch_samples, progress.epoch_step,
            carried_loss=carried, time_s=states[0]["time_s"],
        )  # fmt: skip
    checkpoints.notices += [f"refused: {fault}" for fault in found.refused]
    place = f"after {progress.epoch_samples} samples of epoch {progress.epoch}" if progress.epoch_samples else f"at the start of epoch {progress.epoch}"  # fmt: skip
    checkpoints.notices.append(
        f"resumed from {found.folder}, {place}" + ", under another plan" * (not is_same)
    )


def _has_finished(directory: Path) -> bool:
    return directory.is_dir() and bool(finished(directory))


def _saved_part(ops: Iterable[Op]) -> Part | None:
    """Return the parameters that ``ops`` save, None if they save none."""
    return next((op.part for op in ops if isinstance(op, Save)), None)


def _held(buffers: Buffers, part: Part | None, *, holds_all: bool = False) -> Held:
    """Return what a rank has of the parameters ``part``, or of all, or of none of them.

    Replicas that save no weights, as the first holds the same, have statistics of their own.
    """
    stats = buffers.stats if buffers.flat("stat").size else None
    if holds_all:
        return Held(buffers.parameters, buffers.velocity, stats=stats)
    if part is None:
        return Held(buffers.parameters[:0], None, Role.NONE, stats=stats)
    velocity = buffers.look(buffers.part(replace(part, buffer="velocity"))) if buffers.has_velocity else None  # fmt: skip
    return Held(buffers.look(buffers.part(part)), velocity, start=part.start, stats=stats)


def _put_back(buffers: Buffers, part: Part | None, held: Held) -> None:
    """Set what is on a device to what ``held`` has of it."""
    own = buffers.flat("param") if part is None else buffers.part(part)
    if held.parameters.size:
        buffers.put(own, held.parameters)
    if held.velocity is not None:
        own = buffers.flat("velocity") if part is None else buffers.part(replace(part, buffer="velocity"))  # fmt: skip
        buffers.put(own, held.velocity)
    if held.stats is not None:
        buffers.set_stats(held.stats)
