"""A training that was stopped and resumed against one that was not: the same bits.

The comparison itself, for the tests on threads, and as a program for MPI:
``mpiexec -n P python -m tests.exec.runtime.checkpoint.resumed DIR``.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from exec.nn.backend import Indices
from exec.program.mesh import Mesh
from exec.runtime.checkpoint.manifest import PlanRecord, Progress
from exec.runtime.checkpoint.reshard import restore
from exec.runtime.checkpoint.shard import held_by
from exec.runtime.checkpoint.store import begin, resume
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.transport.protocol import Transport
from tests.exec.random_plans import Case
from tests.exec.runtime.equivalence import dataset_of, plan_of

EPOCH, STOP = 3, 1


def stop_and_go_on(case: Case, directory: Path, wire: Transport) -> None:
    """Raise unless a training stopped in the middle of an epoch goes on bit for bit."""
    plan, dataset = plan_of(case, 0.1, 0.5), dataset_of(case)
    mesh = plan.mesh
    record = PlanRecord(strategy="hybrid", dp=mesh.dp, pp=mesh.pp, tp=mesh.tp)
    whole = Session(plan, dataset, wire)
    store = begin(directory, plan.workload, plan.dtype, record, wire)
    for step, indices in enumerate(full_batches(whole)):
        if step == STOP:
            progress = Progress(
                num_steps=step, epoch=EPOCH, epoch_step=step, seed=plan.seed,
                epoch_samples=step * plan.workload.global_batch,
            )  # fmt: skip
            store.write(progress, held_by(whole.buffers), {})
        whole.do_step(indices)
    again = Session(plan, dataset, wire)
    _, found = resume(directory, plan.workload, plan.dtype, record, wire)
    held = held_by(again.buffers)
    restore(found.folder, found.manifest, plan.workload, record, wire.rank, held)
    reached = found.manifest.progress
    for indices in islice(full_batches(again), reached.epoch_step, None):
        again.do_step(indices)
    for name, array in held.tensors.items():
        assert array.tobytes() == held_by(whole.buffers).tensors[name].tobytes(), name


def full_batches(session: Session) -> Iterator[Indices]:
    """Yield the batches of the epoch but for a short last one."""
    size = session.plan.workload.global_batch
    return (indices for indices in session.batches(EPOCH) if len(indices) == size)


def main(wire: Transport) -> None:
    """Compare data and tensor parallel training, and say so."""
    for mesh in (Mesh(dp=wire.size), Mesh(tp=wire.size)):
        stop_and_go_on(Case.of("6-8-4", 6, mesh), Path(sys.argv[1]) / str(mesh), wire)
    if wire.rank == 0:
        print(f"the same bits on {wire.size} ranks")


if __name__ == "__main__":
    run_job(TransportName.MPI, None, main)
