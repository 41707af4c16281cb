"""The probe of a device, on the emulated one: that it measures what the fit needs. No times."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from calibration.__main__ import app
from calibration.assemble import assemble
from calibration.find import find_machine
from calibration.gpu_messages import probe_device_messages
from calibration.gpu_probe import GPU_PASSES, device_provenance, probe_gpu
from calibration.ladder import EMULATED_BOUNDS, GPU_BOUNDS, Bounds, ladder
from calibration.machine import CopyDirection, Tier
from calibration.samples import (
    CopySample,
    KernelSample,
    LaunchSample,
    MessageSample,
    OverlapSample,
    Sample,
    StepSample,
    read_samples,
    write_samples,
)
from exec.cache import cache_root
from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError, MachineError
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel
from exec.runtime.backend import OnDevice
from exec.runtime.opening import open_backend
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from tests.conftest import run_here, run_process

RUNGS, SECONDS = 24, 0.002
MORE = {"cpu": "made up", "command": "none", "date": "2026-11-21"}


@pytest.fixture(scope="module")
def kind() -> DeviceKind:
    try:
        open_device(DeviceKind.EMULATED, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))
    return DeviceKind.EMULATED


@pytest.fixture(scope="module")
def samples(kind: DeviceKind) -> list[Sample]:
    return probe_gpu(kind, RUNGS, SECONDS, lambda _: None)


def test_a_device_measures_every_kernel_and_a_step_of_every_rung(samples: list[Sample]) -> None:
    assert {each.kernel for each in samples if isinstance(each, KernelSample)} == set(Kernel)
    steps = [each for each in samples if isinstance(each, StepSample)]
    assert len(steps) == RUNGS * GPU_PASSES
    for step, workload in zip(steps, ladder(RUNGS, bounds=EMULATED_BOUNDS) * GPU_PASSES, strict=True):  # fmt: skip
        ops = plan_step(workload, Mesh(), PlanOptions(device=DeviceKind.EMULATED)).roles[0].ops
        assert step.num_ops == sum(isinstance(op, Compute) for op in ops)
        assert step.ops_s > 0


def test_what_was_held_is_what_a_forecast_says_is_held(samples: list[Sample]) -> None:
    first = ladder(1, bounds=EMULATED_BOUNDS)[0]
    role = plan_step(first, Mesh(), PlanOptions(device=DeviceKind.EMULATED)).roles[0]
    assert isinstance(samples[0], KernelSample)
    assert samples[0].working_set == role.nbytes


def test_launches_and_copies_both_ways_are_measured(samples: list[Sample]) -> None:
    assert sum(isinstance(each, LaunchSample) for each in samples) == 1
    counts = Counter(each.direction for each in samples if isinstance(each, CopySample))
    assert set(counts) == set(CopyDirection)
    assert min(counts.values()) >= 5


def test_samples_of_a_device_survive_their_file_and_make_a_machine(
    samples: list[Sample], kind: DeviceKind, tmp_path: Path
) -> None:
    provenance = MORE | device_provenance(kind, is_tf32=True)
    assert (provenance["device"], provenance["tf32"]) == ("emulated", "on")
    write_samples(tmp_path / "samples.jsonl", provenance, samples)
    assert read_samples(tmp_path / "samples.jsonl") == (provenance, samples)
    found = assemble("here", provenance, samples, cores_per_node=1, memory_nbytes=1 << 30)
    assert found.compute is not None
    assert (found.compute.device, found.compute.is_tf32) == (kind, True)
    assert set(found.copies) == set(CopyDirection)


def test_devices_measure_exchanges_allreduces_and_overlap(kind: DeviceKind) -> None:
    ranks = 3  # of which two are a pair

    def probe(wire: Transport) -> list[Sample]:
        backend = open_backend(kind, wire)
        assert isinstance(backend, OnDevice)
        return probe_device_messages(backend.transport, 0.001, lambda _: None, 1 << 10)

    told = run_threads(ranks, probe)
    assert all(each == told[0] for each in told)
    found = [each for each in told[0] if isinstance(each, MessageSample)]
    counts = Counter((each.kind, each.tier, each.ranks) for each in found)
    expected = {("exchange", Tier.NODE, 2), ("allreduce", Tier.NODE, 2), ("allreduce", Tier.NODE, ranks)}  # fmt: skip
    assert set(counts) == expected
    assert sum(isinstance(each, OverlapSample) for each in told[0]) == 1
    provenance = MORE | {"device": "emulated", "gpu": "emulated GPU", "multiprocessors": "4"}
    links = assemble("here", provenance, told[0], cores_per_node=1, memory_nbytes=1).links
    assert links[Tier.NODE].from_device
    assert links[Tier.NODE].allreduce_ranks.high == ranks


@pytest.mark.parametrize("bounds, num_rungs", [(GPU_BOUNDS, 40), (EMULATED_BOUNDS, RUNGS)])
def test_the_shortest_ladders_measure_every_kernel_often_enough(bounds: Bounds, num_rungs: int) -> None:  # fmt: skip
    counts: Counter[Kernel] = Counter()
    for workload in ladder(num_rungs, bounds=bounds):
        ops = plan_step(workload, Mesh()).roles[0].ops
        counts.update(kernel for kernel, _ in {(op.kernel, op.shape) for op in ops if isinstance(op, Compute)})  # fmt: skip
    apart = {Kernel.ACCUMULATE, Kernel.TRANSPOSE, Kernel.TRANSPOSE_BACKWARD}
    assert set(counts) == set(Kernel) - apart
    assert min(counts.values()) >= 5


def test_calibration_leaves_the_profile_of_a_device(kind: DeviceKind, tmp_path: Path) -> None:
    # Kernels that are compiled already, and a profile of its own.
    (tmp_path / "emulated").symlink_to(cache_root() / "emulated", target_is_directory=True)
    command = [sys.executable, "-m", "calibration", "--device", kind, "--tf32"]
    finished = run_process(command, timeout_s=200, STEPCAST_CACHE=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert "emulated GPU, 1 GPU a node" in finished.stdout
    assert (tmp_path / "machine-emulated.json").is_file()
    refused = run_here(app, ["--tf32"])
    assert refused.returncode == 2
    assert refused.stderr == "error: tf32 needs --device gpu, got cpu\n"


def test_a_local_gpu_without_a_profile_says_how_to_make_one(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    with pytest.raises(MachineError, match=r"no profile yet.*python -m calibration --device gpu"):
        find_machine("local-gpu")
