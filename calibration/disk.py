"""The probe of the disk: whole checkpoints of one rank, written by the store that trainings use.

So encoding, checksums, the manifest and the removal of an older checkpoint are in the time, as
they are in a training.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import numpy as np

from calibration.samples import Sample, StorageSample
from exec.errors import MachineError
from exec.network.network import mlp
from exec.program.mesh import Mesh
from exec.runtime.checkpoint.manifest import PlanRecord, Progress
from exec.runtime.checkpoint.shard import Held
from exec.runtime.checkpoint.store import begin
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload

SIZES = (1 << 12, 1 << 15, 1 << 18, 1 << 21, 1 << 23, 1 << 25)


def probe_storage(
    directory: Path | None, num_passes: int, progress: Callable[[str], None]
) -> list[Sample]:
    """Return the times of checkpoints in ``directory``, the temporary folder if None.

    Raises:
        MachineError: nothing can be written there.
    """
    try:
        with TemporaryDirectory(dir=directory) as folder:
            return run_threads(1, lambda wire: _time_writes(wire, Path(folder), num_passes, progress))[0]  # fmt: skip
    except OSError as error:
        raise MachineError(
            f"storage-dir must be a folder to write to, got {directory or gettempdir()}: {error.strerror}"
        ) from error


def _time_writes(
    wire: Transport, folder: Path, num_passes: int, progress: Callable[[str], None]
) -> list[Sample]:
    mesh = Mesh()
    plan = PlanRecord(strategy="serial", dp=mesh.dp, pp=mesh.pp, tp=mesh.tp)
    store = begin(folder, Workload(mlp(1, 2), 1), "float32", plan, wire, keep=1)
    found: list[Sample] = []
    sizes = [SIZES[0], *SIZES * num_passes]  # the first warms up
    for step, nbytes in enumerate(sizes, 1):
        progress(f"a checkpoint of {nbytes} bytes")
        held = Held(np.ones(nbytes // 4, np.float32), None)
        store.write(Progress(num_steps=step, epoch=1, epoch_step=step, epoch_samples=step, seed=0), held, {})  # fmt: skip
        found.append(StorageSample(nbytes=nbytes, time_s=store.written[-1].time_s))
    return found[1:]
