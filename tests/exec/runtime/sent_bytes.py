"""What a step sends, counted by the transport: for threads, and as a program for MPI.

``mpiexec -n P python -m tests.exec.runtime.sent_bytes COUNT``.
"""

import sys

import numpy as np

from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Collective, Send
from exec.program.traffic import collective_nbytes
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.transport.protocol import Transport
from tests.exec.random_plans import Case, seeded_cases
from tests.exec.runtime.equivalence import dataset_of, plan_of

NUM_PARAMETERS = 11 * 11 + 11  # of net 11-11: divisible by 1, 2, 3 and 4


def step_nbytes(case: Case, wire: Transport) -> int:
    """Return what one full step of ``case`` sends from this rank."""
    session = Session(plan_of(case, 0.1, 0.0), dataset_of(case), wire)
    before = wire.nbytes_sent
    session.do_step(np.arange(case.workload.global_batch))
    return wire.nbytes_sent - before


def program_nbytes(case: Case, rank: int) -> int:
    """Return what the ops of ``rank`` say it sends."""
    total = 0
    mesh = case.mesh
    for op in case.expanded.ops(rank):
        if isinstance(op, Send | Collective):
            nbytes = 8 * (op.part.stop - op.part.start)
            if isinstance(op, Send):
                total += nbytes
            else:
                is_root = mesh.coordinate(rank, op.axis) == op.root
                total += collective_nbytes(op.kind, nbytes, mesh.size(op.axis), is_root)
    return total


def allreduce_nbytes(algorithm: Algorithm, wire: Transport) -> int:
    """Return what one step of data parallelism, which is one all-reduce, sends from this rank."""
    return step_nbytes(Case.of("11-11", 8, Mesh(dp=wire.size), algorithm=algorithm), wire)


def count_all(wire: Transport) -> None:
    """Assert the laws on this rank; rank 0 says what one all-reduce sends."""
    for case in seeded_cases(int(sys.argv[1]), wire.size, seed=wire.size):
        assert step_nbytes(case, wire) == program_nbytes(case, wire.rank), case
    for algorithm in (Algorithm.RING, Algorithm.LIBRARY):
        sent = wire.gather_objects(allreduce_nbytes(algorithm, wire))
        if wire.rank == 0:
            print(algorithm, *sent)


if __name__ == "__main__":
    run_job(TransportName.MPI, None, count_all)
