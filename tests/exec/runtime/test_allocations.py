"""A training step allocates no arrays: all that it needs was made before."""

import tracemalloc
from functools import partial

import numpy as np
import pytest

from exec.data.noise import noise_dataset
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload

BATCH = 32_768
# NumPy passes over arrays that it broadcasts or converts with buffers of its own, of 8192 elements
# for each of them, and lets go of these at once. They are as large for any batch.
BUFFERS_NBYTES = 3 * 8192 * 4


@pytest.mark.parametrize(
    ("net", "microbatches", "momentum", "steps"),
    [
        ("8-6-4", 1, 0.0, 20),
        ("8-6-5-4", 2, 0.9, 2),
        ("8-6-5-4", 3, 0.0, 2),
        ("cnn:1x4x4:3", 2, 0.9, 1),
    ],
)
def test_step_allocates_less_than_a_number_for_each_sample(
    net: str, microbatches: int, momentum: float, steps: int
) -> None:
    network = parse_net(net)
    dataset = noise_dataset(network.image, network.num_classes, BATCH, 1, seed=0)
    plan = TrainingPlan(
        Workload(network, BATCH), Mesh(), PlanOptions(num_microbatches=microbatches),
        learning_rate=0.01, momentum=momentum,
    )  # fmt: skip
    session = run_threads(1, partial(Session, plan, dataset))[0]
    order = np.arange(BATCH)
    session.do_step(order)
    tracemalloc.start()  # NumPy tells it of the data of arrays too
    try:
        for _ in range(steps):
            session.do_step(order)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4096
    assert peak < BUFFERS_NBYTES < BATCH * np.dtype(np.float32).itemsize
