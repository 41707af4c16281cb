"""The store: a folder of checkpoints; a kill at any moment leaves the last good one.

Every rank writes its shard; when all are on the disk, rank 0 writes the manifest, and only then
removes what is too old. The folder must be one that every rank sees.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

from exec.errors import ModelFileError, UsageError
from exec.network.text import network_digest
from exec.runtime.checkpoint.durable import (
    Announce,
    remove_checkpoint,
    sync_folder,
    write_durably,
)
from exec.runtime.checkpoint.find import Found, is_finished, newest_good, step_folders, step_name
from exec.runtime.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    PlanRecord,
    Progress,
    Role,
    ShardRecord,
    encode_manifest,
)
from exec.runtime.checkpoint.shard import Held, encode_shard, shard_name
from exec.runtime.job import together
from exec.runtime.report import software
from exec.transport.protocol import Transport
from exec.workload import Workload

KEEP = 2


@dataclass(frozen=True, slots=True)
class Written:
    """The cost of one checkpoint: ``nbytes`` are this rank's, ``total_nbytes`` all ranks'."""

    num_steps: int
    nbytes: int
    total_nbytes: int
    time_s: float


@dataclass(slots=True)
class Store:
    """One rank's hold on a folder of checkpoints; made by :func:`begin` or :func:`resume`.

    ``good`` are the steps whose checkpoints are known to be good, and the newest ``keep`` of them
    stay. ``announce`` is called with what is about to be done to the disk. ``written`` is what
    each write cost.
    """

    directory: Path
    transport: Transport
    workload: Workload
    dtype: str
    plan: PlanRecord
    run_id: str
    keep: int = KEEP
    announce: Announce = lambda _: None
    good: list[int] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)

    def write(self, progress: Progress, held: Held, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; all ranks must call it together, with one ``progress``.

        ``held`` and ``state`` are this rank's; ``state`` is JSON. A step whose checkpoint is good
        already is not written again.

        Raises:
            AgreedError: it could not be written, or holds what is not finite; the last good one
                is still there.
        """
        num_steps = progress.num_steps
        if num_steps in self.good:
            return
        self._check_held(held)
        start_s = perf_counter()
        wire, is_first = self.transport, self.transport.rank == 0
        together(wire, lambda: self._prepare(num_steps) if is_first else None)
        record = together(wire, lambda: self._write_shard(num_steps, held, state))
        records = wire.gather_objects(record)
        together(wire, lambda: self._finish(progress, records) if is_first else None)
        self.good = sorted({*self.good, num_steps})[-self.keep :]
        total = sum(each.nbytes for each in records)
        self.written.append(Written(num_steps, record.nbytes, total, perf_counter() - start_s))

    def _check_held(self, held: Held) -> None:
        """Raise unless ``held`` is of the network's type: readers would refuse it."""
        dtypes = {array.dtype.name for array in held.tensors.values()}
        has_velocity = self.workload.has_momentum and held.role is not Role.NONE
        if dtypes != {self.dtype} or has_velocity != (held.velocity is not None):
            raise ValueError(f"a shard must hold {self.dtype} parameters{' and velocity' * has_velocity}, got {sorted(held.tensors)} of {dtypes}")  # fmt: skip

    def _prepare(self, num_steps: int) -> None:
        """Remove what unfinished writes left, and make the folder of this one."""
        folder = self.directory / step_name(num_steps)
        try:
            for step, other in step_folders(self.directory).items():
                if step == num_steps or not is_finished(other):
                    remove_checkpoint(other, self.announce)
            self.announce(f"make {folder.name}")
            folder.mkdir()
            sync_folder(self.directory)
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def _write_shard(self, num_steps: int, held: Held, state: Mapping[str, Any]) -> ShardRecord:
        rank = self.transport.rank
        dp_rank, stage, tp_rank = coordinates = self.plan.mesh.coordinates(rank)
        data = encode_shard(held, self.run_id, num_steps, rank, coordinates)
        path = self.directory / step_name(num_steps) / shard_name(rank)
        try:
            write_durably(path, data, self.announce)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return ShardRecord(
            file=path.name, sha256=hashlib.sha256(data).hexdigest(), nbytes=len(data),
            dp_rank=dp_rank, stage=stage, tp_rank=tp_rank, role=held.role,
            start=held.start, stop=held.stop, num_stats=held.num_stats, state=dict(state),
        )  # fmt: skip

    def _finish(self, progress: Progress, records: list[ShardRecord]) -> None:
        """Write the manifest, now that every shard is on the disk, and remove what is too old."""
        folder = self.directory / step_name(progress.num_steps)
        manifest = Manifest(
            run_id=self.run_id, net=self.workload.net,
            net_digest=network_digest(self.workload.network), dtype=self.dtype,
            has_momentum=self.workload.has_momentum, progress=progress, plan=self.plan,
            shards=records,
            provenance=software() | {
                "transport": self.transport.library,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )  # fmt: skip
        data = encode_manifest(manifest)
        try:
            for record in records:
                if not (folder / record.file).is_file():
                    raise ModelFileError(
                        f"checkpoints must be in a folder that all ranks share, got "
                        f"{self.directory}, where rank 0 does not see {record.file}"
                    )
            write_durably(folder / MANIFEST, data, self.announce)
            self._prune(progress.num_steps)
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def _prune(self, num_steps: int) -> None:
        """Remove all but the newest ``keep`` good ones.

        A newer one was refused when this training resumed, and has now been overtaken: it must
        not be chosen next time. An older one of which nothing is known stays as long as there
        are fewer than ``keep`` good ones.
        """
        kept = sorted({*self.good, num_steps})[-self.keep :]
        for step, folder in step_folders(self.directory).items():
            if step not in kept and (step > num_steps or len(kept) == self.keep):
                remove_checkpoint(folder, self.announce)


def begin(
    directory: Path, workload: Workload, dtype: str, plan: PlanRecord, transport: Transport, *,
    keep: int = KEEP, announce: Announce = lambda _: None,
) -> Store:  # fmt: skip
    """Return the store of a new training; all ranks must call it together.

    Raises:
        AgreedError: there are checkpoints in ``directory`` already, or it is no folder.
    """
    together(transport, lambda: _check_new(directory, keep))
    run_id = transport.gather_objects(uuid4().hex)[0]
    return Store(directory, transport, workload, dtype, plan, run_id, keep, announce)


def resume(
    directory: Path, workload: Workload, dtype: str, plan: PlanRecord, transport: Transport, *,
    keep: int = KEEP, announce: Announce = lambda _: None,
) -> tuple[Store, Found]:  # fmt: skip
    """Return the store of a training that goes on, and the checkpoint to go on from.

    All ranks must call it together.

    Raises:
        AgreedError: no checkpoint in ``directory`` is good, or it is of another network.
    """
    together(transport, lambda: _check_keep(keep))
    found = newest_good(directory, workload, dtype, transport)
    run_id = transport.gather_objects(uuid4().hex)[0]
    store = Store(directory, transport, workload, dtype, plan, run_id, keep, announce)
    store.good.append(found.manifest.progress.num_steps)
    return store, found


def _check_keep(keep: int) -> None:
    if keep < 1:
        raise UsageError(f"keep must be at least 1, got {keep}")


def _check_new(directory: Path, keep: int) -> None:
    """Make ``directory``, or raise if it holds checkpoints."""
    _check_keep(keep)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        finished = [step for step, folder in step_folders(directory).items() if is_finished(folder)]
    except OSError as error:
        raise _cannot_write(directory, error) from error
    if finished:
        raise UsageError(
            f"checkpoints must go to a folder that holds none, got {directory}, which holds one of "
            f"step {finished[0]}; resume from it, or name another folder"
        )


def _cannot_write(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(f"{path} cannot be written: {error.strerror}")
