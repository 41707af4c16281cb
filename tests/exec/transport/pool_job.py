"""A job on a pool: ``mpiexec -n P python -m tests.exec.transport.pool_job RANKS_PER_GROUP WHAT``.

Prints, as JSON, what each task came to; with WHAT ``raise`` or ``kill`` the rank 2 of the world
fails in the middle, where its group waits for it.
"""

import json
import os
import signal
import sys
from concurrent.futures import wait

import numpy as np

from exec.program.ops import CollectiveKind
from exec.runtime.job import TransportName, ended_with, run_job
from exec.transport.mpi import MpiTransport
from exec.transport.pool import Pool, run_pool
from exec.transport.protocol import Transport

NUM_TASKS = 40


def run(world: Transport, ranks_per_group: int, what: str) -> None:
    """Run the tasks 0 .. NUM_TASKS - 1; each is multiplied by the size of its group."""
    assert isinstance(world, MpiTransport)

    def work(task: int, wire: Transport, group: int) -> tuple[int, int]:
        if world.rank == 2 and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if world.rank == 2 and what == "raise":
            raise ValueError("the work of rank 2 is wrong")
        total = np.full(1, float(task))
        halves = wire.split(0)
        halves.run_collective(CollectiveKind.ALLREDUCE, total, [], 0)
        halves.close()
        return int(total[0]), group

    def hand_out(pool: Pool[int, tuple[int, int]]) -> list[tuple[int, int]]:
        futures = [pool.submit(task) for task in range(NUM_TASKS)]
        wait(futures)
        assert max(future.result()[1] for future in futures) < pool.num_groups
        return [future.result() for future in futures]

    answer = run_pool(world, ranks_per_group, ended_with(world, hand_out), ended_with(world, work))
    assert (answer is None) == (world.rank > 0)
    if answer is not None:
        print(json.dumps(answer))


def split_often(world: Transport) -> None:
    """Make and give back more groups than MPI has communicators."""
    for _ in range(3000):
        world.split(0).close()


if __name__ == "__main__":
    if sys.argv[1] == "split":
        run_job(TransportName.MPI, None, split_often)
    else:
        run_job(TransportName.MPI, None, lambda wire: run(wire, int(sys.argv[1]), sys.argv[2]))
