"""Laws of the fit on a GPU: what a ladder tells of it forecasts steps of shapes that it did not have."""

import statistics
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.assemble import assemble
from calibration.features import features, features_missing
from calibration.fit import fit_step_costs
from calibration.gpu_features import TILES, tiling
from calibration.ladder import (
    EMULATED_BOUNDS,
    GPU_BOUNDS,
    GPU_HELD_OUT_BATCHES,
    bounds_for,
    ladder,
)
from calibration.machine import CopyDirection, Machine
from calibration.samples import KernelSample, StepSample
from exec.device.kind import DeviceKind
from exec.errors import MachineError
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.program.ops import Kernel, Shape
from exec.workload import Workload
from sim.forecast import Forecast, forecast
from tests.calibration.gpu_synthetic import (
    LAUNCH_S,
    OBLONG,
    PROCESSOR,
    PROVENANCE,
    SQUARE,
    STEP_S,
    Tiles,
    rungs,
    samples_on,
    true_step_s,
)

SEEN, ALL = 96, 136
NETS = [
    ("128-50-26", 32), ("128-50-26", 4096), ("784-512-512-26", 32), ("784-512-512-26", 4096),
    ("784-4096-4096-4096-26", 8192), ("cnn", 256), ("resnet18-small", 128), ("resnet18", 64),
]  # fmt: skip


@cache
def fitted(noise: float, tiles: Tiles) -> Machine:
    found = samples_on(rungs(SEEN), noise, tiles)
    return assemble("gpu", PROVENANCE, found, cores_per_node=1, memory_nbytes=80 * 10**9)


def forecast_of(machine: Machine, workload: Workload) -> Forecast:
    return forecast(machine, workload, Mesh(), PlanOptions(device=DeviceKind.GPU))


def errors(machine: Machine, tiles: Tiles) -> list[float]:
    """Return the relative errors of the steps of rungs that were not fitted."""
    found = []
    for workload in rungs(ALL)[SEEN:]:
        ratio = forecast_of(machine, workload).step_time_s / true_step_s(workload, tiles)
        found.append(abs(ratio - 1.0))
    return found


def test_steps_of_unseen_shapes_are_forecast_to_a_few_per_cent_through_noise() -> None:
    # Multiplying and moving overlap on this GPU, so no sum of features is its time exactly.
    found = errors(fitted(0.05, SQUARE), SQUARE)
    assert statistics.median(found) < 0.04
    assert max(found) < 0.2


def test_a_library_of_other_tiles_than_the_features_is_forecast_to_their_waves() -> None:
    found = errors(fitted(0.05, OBLONG), OBLONG)
    assert statistics.median(found) < 0.07
    assert max(found) < 0.35  # of a single product whose last wave is nearly empty


@pytest.mark.parametrize("net, batch", NETS)
def test_networks_of_the_benchmarks_are_within_their_intervals(net: str, batch: int) -> None:
    workload = Workload(parse_net(net), batch)
    for tiles in (SQUARE, OBLONG):
        found = forecast_of(fitted(0.05, tiles), workload)
        assert found.step_time_s == pytest.approx(true_step_s(workload, tiles), rel=0.13)


def test_the_machine_says_what_it_was_measured_on() -> None:
    compute = fitted(0.0, SQUARE).compute
    assert compute is not None
    assert (compute.device, compute.num_multiprocessors, compute.is_tf32) == (DeviceKind.GPU, 132, False)  # fmt: skip
    assert compute.launch_s == LAUNCH_S
    assert compute.step_overhead_s == pytest.approx(STEP_S, rel=0.01)
    # An op was timed longer than it takes by an event, which its fixed part must not have.
    assert compute.kernels[Kernel.RELU].coefficients_s["fixed"] == pytest.approx(LAUNCH_S, rel=0.1)
    assert Machine.model_validate_json(fitted(0.0, SQUARE).model_dump_json()) == fitted(0.0, SQUARE)


def test_copies_take_what_was_measured() -> None:
    copies = fitted(0.0, SQUARE).copies
    for direction, rate in ((CopyDirection.TO_DEVICE, 5e10), (CopyDirection.TO_HOST, 4e10)):
        alpha_s, beta = copies[direction].at(1 << 20)
        assert alpha_s + beta * (1 << 20) == pytest.approx(8e-6 + (1 << 20) / rate, rel=1e-3)


def test_an_op_that_another_does_as_well_costs_next_to_nothing() -> None:
    found = samples_on(rungs(24), 0.0, SQUARE)
    fused = [
        each.model_copy(update={"time_s": 0.0})
        if isinstance(each, KernelSample) and each.kernel is Kernel.SIGMOID
        else each
        for each in found
    ]
    machine = assemble("gpu", PROVENANCE, fused, cores_per_node=1, memory_nbytes=1)
    assert machine.compute is not None
    model = machine.compute.kernels[Kernel.SIGMOID]
    caches = machine.compute.cache_nbytes
    assert model.time_s(Kernel.SIGMOID, Shape(64, 0, 512), 1 << 20, caches, PROCESSOR) < 2e-7


@pytest.mark.parametrize("event_s", [2e-6, 0.0, -1e-6])
def test_what_an_event_costs_is_told_from_what_a_step_costs(event_s: float) -> None:
    steps = [
        StepSample(net=str(n), batch=1, is_neighbour_busy=False, rel_sigma=0, num_ops=n,
                   ops_s=n * (5e-6 + event_s), time_s=1e-5 + n * 5e-6)
        for n in (5, 9, 20, 60)
    ]  # fmt: skip
    assert fit_step_costs(steps) == pytest.approx((1e-5, event_s), rel=1e-6, abs=1e-12)


def test_a_provenance_of_no_device_is_refused() -> None:
    with pytest.raises(MachineError, match="must name a device"):
        assemble("gpu", PROVENANCE | {"device": "tpu"}, [], cores_per_node=1, memory_nbytes=1)


@given(
    rows=st.integers(1, 5000), columns=st.integers(1, 5000), length=st.integers(1, 5000),
    least=st.sampled_from([side for side, _ in TILES]),
)  # fmt: skip
def test_waves_are_never_less_than_the_flops_and_more_with_every_side(
    rows: int, columns: int, length: int, least: int
) -> None:
    flops, steps = tiling(rows, columns, length, least, 132)
    assert flops >= 2 * rows * columns * length * (1 - 1e-12)
    assert 0 < steps <= length * -(-rows * columns // 128)
    for more in ((rows + 1, columns, length), (rows, columns + 1, length)):
        assert tiling(*more, least, 132)[0] >= flops
    assert tiling(rows, columns, 2 * length, least, 132)[0] <= 2 * flops * (1 + 1e-12)


@given(kernel=st.sampled_from(Kernel), n=st.integers(1, 600), m=st.integers(1, 600), missed=st.floats(0, 1))  # fmt: skip
def test_features_of_a_gpu_are_linear_in_what_its_cache_missed(
    kernel: Kernel, n: int, m: int, missed: float
) -> None:
    shape, caches = Shape(n, 45, m, 64, 64, 9), (1 << 20, 1 << 62)
    some, none, all_of_it = (
        features_missing(kernel, shape, (share, 0.0), caches, PROCESSOR) for share in (missed, 0, 1)
    )
    for name, value in some.items():
        linear = none[name] + missed * (all_of_it[name] - none[name])
        assert value == pytest.approx(linear, rel=1e-12)
        assert value >= 0


def test_a_backward_pass_is_two_products() -> None:
    caches = (1 << 20, 1 << 62)
    for forward, backward, first in (
        (Kernel.LINEAR, Kernel.LINEAR_BACKWARD, Kernel.LINEAR_BACKWARD_FIRST),
        (Kernel.CONV, Kernel.CONV_BACKWARD, Kernel.CONV_BACKWARD_FIRST),
    ):
        shape = Shape(32, 64 * 9, 128, 49, 49, 9) if forward is Kernel.CONV else Shape(32, 64, 128)
        flops = [features(kernel, shape, 1, caches, PROCESSOR)["flops"] for kernel in (forward, backward, first)]  # fmt: skip
        assert flops == [flops[0], 2 * flops[0], flops[0]]


def test_the_ladder_of_a_gpu_reaches_what_is_asked_of_it() -> None:
    found = ladder(96, 4, GPU_BOUNDS)
    assert ladder(40, 4, GPU_BOUNDS) == found[:40]
    names = {(each.net, each.global_batch) for each in found}
    assert len(names) == len(found)
    dense, convolutional = found[::2], found[1::2]
    assert max(each.global_batch for each in dense) > 6000
    assert max(each.network.num_parameters for each in dense) > 2 * 10**7
    assert not {each.global_batch for each in convolutional} & set(GPU_HELD_OUT_BATCHES)
    flops = [each.global_batch * sum(each.node_flops(i) for i in range(len(each.network.nodes))) for each in found]  # fmt: skip
    assert max(flops) < 1.1e13
    assert sum(flops) < 1e14  # a few seconds of a GPU for each time that all are climbed


def test_the_emulated_ladder_is_tiny_and_every_device_has_one() -> None:
    assert bounds_for(DeviceKind.EMULATED) is EMULATED_BOUNDS
    for each in ladder(24, 4, EMULATED_BOUNDS):
        assert each.global_batch <= 12
        assert each.network.num_parameters < 10**4
