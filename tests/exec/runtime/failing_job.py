"""A job in which rank 1 fails: ``python -m tests.exec.runtime.failing_job TRANSPORT WHEN``.

At ``set-up`` before it has trained, at ``mid-step`` with samples that are no indices, or by being
``killed``. The other ranks wait for it in the middle of a step.
"""

import os
import signal
import sys

import numpy as np

from exec.errors import DataError
from exec.program.mesh import Mesh
from exec.runtime.job import TransportName, run_job
from exec.runtime.session import Session
from exec.transport.protocol import Transport
from tests.exec.random_plans import Case
from tests.exec.runtime.equivalence import dataset_of, plan_of


def train_until(when: str, wire: Transport) -> None:
    """Train; rank 1 fails at ``when``."""
    case = Case.of("6-5-4", 6, Mesh(dp=3))
    if wire.rank == 1 and when == "set-up":
        raise DataError("the disk of rank 1 is empty")
    session = Session(plan_of(case, 0.1, 0.0), dataset_of(case), wire)
    for step in range(10):
        indices = np.arange(6)
        if wire.rank == 1 and step == 3:
            if when == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            indices = np.full(6, 0.5)
        session.do_step(indices)
    raise AssertionError("no rank may come here")


if __name__ == "__main__":
    run_job(TransportName(sys.argv[1]), 3, lambda wire: train_until(sys.argv[2], wire))
