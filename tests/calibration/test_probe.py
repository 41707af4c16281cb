"""The probe on this computer, as short as it goes: that it measures what the fit needs. No times."""

from collections import Counter
from pathlib import Path

import pytest

from calibration.__main__ import app
from calibration.assemble import assemble
from calibration.disk import SIZES, probe_storage
from calibration.ladder import ladder
from calibration.machine import Tier, read_machine
from calibration.probe import (
    PASSES,
    probe_kernels,
    probe_messages,
    probe_neighbour,
    time_step,
)
from calibration.samples import (
    KernelSample,
    MessageSample,
    OverlapSample,
    Sample,
    StepSample,
    StorageSample,
)
from calibration.window_probe import NUM_WINDOWS, probe_node, probe_windows
from exec.errors import MachineError
from exec.program.ops import Kernel
from exec.runtime.report import num_cores
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.calibration.synthetic import PROVENANCE
from tests.conftest import Launch, run_here

RUNGS, SECONDS = 16, 0.002


@pytest.fixture(scope="module")
def kernels() -> list[Sample]:
    """Return what a short ladder gives."""
    return probe_kernels(RUNGS, SECONDS, lambda _: None)


def test_a_ladder_measures_every_kernel_and_a_step_of_every_rung(kernels: list[Sample]) -> None:
    measured = {sample.kernel for sample in kernels if isinstance(sample, KernelSample)}
    assert measured == set(Kernel)
    steps = [sample for sample in kernels if isinstance(sample, StepSample)]
    assert len(steps) == RUNGS * PASSES
    assert not any(step.is_neighbour_busy for step in steps)


def test_every_sample_of_a_kernel_is_positive_and_says_what_was_held(kernels: list[Sample]) -> None:
    for sample in kernels:
        assert sample.time_s > 0  # type: ignore[union-attr]  # no overlap is measured here
        if isinstance(sample, KernelSample):
            assert sample.m > 0
            assert sample.working_set >= 4 * sample.m


@pytest.mark.parametrize("workload", ladder(2), ids=["dense", "convolutional"])
def test_the_sum_of_the_ops_is_the_sum_of_the_kernel_samples(workload: Workload) -> None:
    *found, step = time_step(workload, SECONDS, is_neighbour_busy=False)
    assert isinstance(step, StepSample)
    assert (step.net, step.batch) == (workload.net, workload.global_batch)
    times_s = [sample.time_s for sample in found if isinstance(sample, KernelSample)]
    assert len(times_s) == len(found)
    assert step.ops_s == pytest.approx(sum(times_s), rel=1e-9)  # in another order


def test_what_dense_layers_cost_is_measured_among_dense_layers(kernels: list[Sample]) -> None:
    counts = Counter(s.kernel for s in kernels if isinstance(s, KernelSample))
    per_pass = RUNGS // 2 * PASSES
    assert counts[Kernel.LOSS] == counts[Kernel.UPDATE] == per_pass
    assert counts[Kernel.LOAD] == 2 * per_pass


def test_a_neighbour_is_measured_in_whole_steps() -> None:
    found = probe_neighbour(1, SECONDS, lambda _: None)
    assert [(type(sample), sample.is_neighbour_busy) for sample in found] == PASSES * [
        (StepSample, True)
    ]  # type: ignore[union-attr]


@pytest.fixture(scope="module", params=[2, 3])
def messages(request: pytest.FixtureRequest) -> tuple[int, list[list[Sample]]]:
    """Return how many ranks exchanged messages, and what each of them was told."""
    ranks: int = request.param
    return ranks, run_threads(ranks, lambda wire: probe_messages(wire, 0.001, lambda _: None))


def test_two_ranks_of_a_node_measure_exchanges_allreduces_and_overlap(
    messages: tuple[int, list[list[Sample]]],
) -> None:
    ranks, told = messages
    assert all(each == told[0] for each in told)
    found = [sample for sample in told[0] if isinstance(sample, MessageSample)]
    counts = Counter((sample.kind, sample.tier, sample.ranks) for sample in found)
    expected = {("exchange", Tier.NODE, 2), ("allreduce", Tier.NODE, 2)}
    expected |= {("allreduce", Tier.NODE, ranks)}
    assert set(counts) == expected
    assert len(set(counts.values())) == 1
    sizes = sorted({sample.nbytes for sample in found})
    assert sizes[0] <= 8
    assert sizes[-1] >= 1 << 20
    assert all(sample.time_s > 0 for sample in found)
    assert [type(sample) for sample in told[0] if not isinstance(sample, MessageSample)] == [
        OverlapSample
    ]


def test_what_is_probed_can_be_assembled(
    kernels: list[Sample], messages: tuple[int, list[list[Sample]]]
) -> None:
    found = assemble(
        "here", PROVENANCE, [*kernels, *messages[1][0]], cores_per_node=2, memory_nbytes=1
    )
    assert found.compute is not None
    assert set(found.links) == {Tier.NODE}
    assert found.links[Tier.NODE].allreduce_ranks.high == messages[0]
    assert all(model.rel_sigma >= 0 for model in found.compute.kernels.values())


def test_the_disk_is_measured_by_whole_checkpoints_of_every_size(tmp_path: Path) -> None:
    told: list[str] = []
    found = probe_storage(tmp_path, 2, told.append)
    assert [each.nbytes for each in found if isinstance(each, StorageSample)] == [*SIZES, *SIZES]
    assert len(told) == 1 + len(found)
    assert list(tmp_path.iterdir()) == []
    machine = assemble("here", PROVENANCE, found, cores_per_node=2, memory_nbytes=1)
    assert machine.storage is not None
    assert machine.storage.time_s(SIZES[-1]) > 0
    with pytest.raises(MachineError, match=r"^storage-dir must be a folder to write to, got"):
        probe_storage(tmp_path / "absent", 1, told.append)


def test_calibration_refuses_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path))
    for arguments in (
        ["--out", "/no/such/folder/m.json"],
        ["--samples", str(tmp_path)],
        ["--blas-threads", "0"],
        ["--storage-dir", str(tmp_path / "absent")],
        ["--quik"],
    ):
        finished = run_here(app, arguments)
        assert finished.returncode == 2
        assert finished.stderr.startswith("error: ")
        assert "Traceback" not in finished.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.mpi
def test_two_ranks_leave_a_profile_with_links(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    finished = launch(2, "tests.calibration.short", "--quick", "--out", str(path), timeout_s=120)
    assert finished.returncode == 0, finished.stderr
    found = read_machine(path)
    assert found.compute is not None
    assert set(found.links) == {Tier.NODE}
    assert "us and more with size" in finished.stdout


def test_all_ranks_of_a_node_measure_windows_together_if_they_have_cores() -> None:
    told = run_threads(3, lambda wire: probe_node(wire, 0.001, lambda _: None))
    counts = {sample.ranks for sample in told[0]}
    assert counts == ({2, 3} if num_cores() > 2 else {2})
    assert not told[2] or num_cores() > 2
    (more, *_) = run_threads(3, lambda wire: probe_windows(wire, 0.001, lambda _: None))
    assert {(sample.ranks, sample.kind) for sample in more} == {(3, "window"), (3, "barrier")}
    assert max(sample.nbytes for sample in more) * 3 <= 2 * max(sample.nbytes for sample in told[0])


def test_two_ranks_of_a_node_measure_sums_of_windows_and_barriers() -> None:
    told = run_threads(2, lambda wire: probe_windows(wire, 0.001, lambda _: None))
    assert [len(each) for each in told] == [PASSES * NUM_WINDOWS] * 2
    counts = Counter((sample.kind, sample.nbytes) for sample in told[0])
    assert set(counts.values()) == {PASSES}
    assert {kind for kind, _ in counts} == {"window", "barrier"}
    assert all(sample.time_s > 0 and sample.tier is Tier.NODE for sample in told[0])
