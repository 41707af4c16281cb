"""What a busy machine spoils: of equal measurements, the calmest counts."""

from calibration.assemble import assemble
from calibration.fit import fit_kernels
from calibration.samples import Sample, StepSample
from tests.calibration.synthetic import kernel_samples

PROVENANCE = {"command": "none", "date": "2026-11-21", "cpu": "none"}


def test_a_disturbed_repetition_of_every_kernel_changes_nothing() -> None:
    calm = kernel_samples()
    slow = [sample.model_copy(update={"time_s": 3.0 * sample.time_s}) for sample in calm]
    assert fit_kernels([*slow, *calm]) == fit_kernels(calm) == fit_kernels([*calm, *slow])


def test_a_disturbed_repetition_of_a_step_changes_nothing() -> None:
    def step(time_s: float, *, is_busy: bool) -> StepSample:
        return StepSample(net="8-4", batch=2, is_neighbour_busy=is_busy, time_s=time_s,
                          ops_s=0.9 * time_s, rel_sigma=time_s / 100)  # fmt: skip

    calm: list[Sample] = [*kernel_samples(), step(1.0, is_busy=False), step(1.2, is_busy=True)]
    slow: list[Sample] = [step(5.0, is_busy=False), step(9.0, is_busy=True)]
    machines = [
        assemble("a", PROVENANCE, samples, cores_per_node=2, memory_nbytes=1)
        for samples in (calm, [*calm, *slow], [*slow, *calm])
    ]
    assert machines[0] == machines[1] == machines[2]
