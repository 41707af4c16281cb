"""Gradients on a device equal those on the host: of dense nets, a CNN and a ResNet, alone or shared."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.data.noise import noise_dataset
from exec.device.kind import DeviceKind
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.devices import DeviceWire
from exec.runtime.opening import backend_of
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload

NETS = {"128-50-26": 32, "784-512-512-26": 16, "cnn:1x16x8:26": 8, "resnet18-small:1x16x16:10": 6}
# In float64 a step of these nets rounds some 1e5 times, each by at most 1.1e-16 of what it sums.
SAME = 1e-11
# Both round in float32, in other orders: neither is far closer to the float64 gradient.
FACTOR = 8.0
UNIT = float(np.finfo(np.float32).eps) / 2

Vector = NDArray[np.floating]


def data_of(net: str, batch: int) -> Dataset:
    """Return one batch of noise."""
    network = parse_net(net)
    return noise_dataset(network.image, network.num_classes, batch, 2, seed=3)


def plan_of(net: str, dtype: str, mesh: Mesh, kind: DeviceKind, **options: object) -> TrainingPlan:
    """Return the plan of a step at rate 1."""
    workload = Workload(parse_net(net), NETS[net], np.dtype(dtype).itemsize)
    chosen = PlanOptions(device=kind, **options)  # type: ignore[arg-type]  # by name
    return TrainingPlan(workload, mesh, chosen, dtype, learning_rate=1.0, seed=5)


def gradient(plan: TrainingPlan, asked: DeviceWire = DeviceWire.AUTO) -> Vector:
    """Return what one step at rate 1 takes off the weights, on ranks that are threads."""
    dataset = data_of(plan.workload.net, plan.workload.global_batch)

    def step(wire: Transport) -> Vector:
        session = Session(plan, dataset, wire, backend=backend_of(plan, wire, asked))
        before = session.weights().parameters
        session.do_step(np.arange(len(dataset.train_labels)))
        return before - session.weights().parameters

    return run_threads(plan.mesh.world_size, step)[0]


def error(found: Vector, exact: Vector) -> float:
    """Return the relative error of ``found``."""
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("net", NETS)
def test_gradients_in_float64_are_the_host_s(device_kind: DeviceKind, net: str) -> None:
    on_host = gradient(plan_of(net, "float64", Mesh(), DeviceKind.CPU))
    on_device = gradient(plan_of(net, "float64", Mesh(), device_kind))
    assert error(on_device, on_host) < SAME


@pytest.mark.parametrize("net", NETS)
def test_gradients_in_float32_are_as_good_as_the_host_s(device_kind: DeviceKind, net: str) -> None:
    exact = gradient(plan_of(net, "float64", Mesh(), DeviceKind.CPU))
    on_host = gradient(plan_of(net, "float32", Mesh(), DeviceKind.CPU))
    on_device = gradient(plan_of(net, "float32", Mesh(), device_kind))
    assert error(on_device, exact) < FACTOR * max(error(on_host, exact), UNIT)


def test_rounding_to_tf32_is_seen_and_bounded(device_kind: DeviceKind) -> None:
    net = "784-512-512-26"
    exact = gradient(plan_of(net, "float64", Mesh(), DeviceKind.CPU))
    plain = plan_of(net, "float32", Mesh(), device_kind)
    rounded = error(gradient(replace(plain, is_tf32=True)), exact)
    # TF32 keeps 10 bits after the point, so a factor moves by at most 2^-11 of itself; six products
    # in a row, of two factors each, add up to at most 12 of those.
    assert 10 * error(gradient(plain), exact) < rounded < 12 * 2.0**-11


@pytest.mark.parametrize("net, mesh", [
    ("128-50-26", Mesh(dp=4)), ("128-50-26", Mesh(tp=4)), ("cnn:1x16x8:26", Mesh(dp=4)),
    ("cnn:1x16x8:26", Mesh(tp=2)), ("resnet18-small:1x16x16:10", Mesh(dp=2)),
])  # fmt: skip
def test_ranks_that_share_a_device_have_the_serial_gradient(
    device_kind: DeviceKind, net: str, mesh: Mesh
) -> None:
    # With shared statistics replicas normalise by the whole batch, as one rank does.
    plan = plan_of(net, "float64", mesh, device_kind, sync_batchnorm=mesh.dp > 1)
    serial = gradient(plan_of(net, "float64", Mesh(), DeviceKind.CPU))
    assert error(gradient(plan, DeviceWire.STAGED), serial) < SAME
