"""The yardstick computes what the trainer computes: any network, in both memory formats."""

from functools import partial

import numpy as np
import pytest

from exec.data.noise import noise_dataset
from exec.network.network import Network, mlp
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.exec.random_networks import seeded_networks

torch = pytest.importorskip("torch", reason="needs torch: a development oracle")

BATCH, STEPS, RATE = 6, 2, 0.01
# Some thousand roundings (1.1e-16) a step, of sums that cancel, and that a normalisation of a few
# samples of almost equal values makes up to 1e5 times larger: 2 x 1e3 x 1e5 x 1.1e-16.
TOLERANCE = 2e-8
NETWORKS = [*seeded_networks(10, seed=5), mlp(5, 4, 3)]


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize("network", NETWORKS, ids=[f"{i}" for i in range(len(NETWORKS))])
def test_pytorch_trains_to_the_same_weights(network: Network, is_channels_last: bool) -> None:
    from benchmarks.pytorch import torch_images, torch_network, torch_step  # noqa: PLC0415  # torch

    dataset = noise_dataset(network.image, network.num_classes, STEPS * BATCH, 1, seed=1)
    plan = TrainingPlan(Workload(network, BATCH, 8), Mesh(), dtype="float64", learning_rate=RATE)
    session = run_threads(1, partial(Session, plan, dataset))[0]
    net = torch_network(session.weights(), is_channels_last=is_channels_last)
    rows = dataset.train_images.astype(np.float64)
    images = torch_images(network, rows, is_channels_last=is_channels_last)
    step = torch_step(net, images, dataset, RATE)
    start = session.weights()
    for indices in session.batches(0):
        session.do_step(indices)
        step(torch.from_numpy(indices))
    ours, theirs = torch_network(session.weights()), net.state_dict()
    found = ours.state_dict()
    for name, array in theirs.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(found[name], array, rtol=TOLERANCE, atol=TOLERANCE)
    assert np.abs(session.weights().parameters - start.parameters).max() > 1e3 * TOLERANCE
