"""A busy neighbour: trains until its standard input is closed."""

import sys
import threading

import numpy as np
from threadpoolctl import threadpool_limits

from exec.data.noise import noise_dataset
from exec.network.network import mlp
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload


def _train(wire: Transport) -> None:
    workload = Workload(mlp(512, 256, 26), 64)
    session = Session(TrainingPlan(workload, Mesh()), noise_dataset(512, 26, 4096, 1, seed=0), wire)
    closed = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    sys.stdout.write("training\n")
    sys.stdout.flush()
    indices = np.arange(64)
    while not closed.is_set():
        session.do_step(indices)


if __name__ == "__main__":
    with threadpool_limits(1):
        run_threads(1, _train)
