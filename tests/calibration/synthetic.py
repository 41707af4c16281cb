"""Samples made from coefficients that a test knows, with the noise it asks for."""

from dataclasses import asdict
from functools import cache

import numpy as np

from calibration.features import features
from calibration.ladder import ladder
from calibration.machine import Tier
from calibration.samples import (
    KernelSample,
    MessageSample,
    OverlapSample,
    Sample,
    StepSample,
    StorageSample,
)
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel, Shape

CACHES = (1 << 20, 1 << 24)
PROVENANCE = {"cpu": "made up", "command": "none", "date": "2026-11-21"}
# Seconds for each feature: what this kind of machine costs, to the order of magnitude.
TRUTH = {
    "fixed": 2e-6, "nkm": 2.5e-11, "nk": 1e-10, "km": 2e-10, "nm": 4e-10, "n": 3e-9, "k": 2e-9, "m": 5e-10,
    "km_inner_miss": 1e-10, "km_outer_miss": 3e-10, "nm_inner_miss": 1e-10, "m_inner_miss": 1e-10, "m_outer_miss": 3e-10,
    "momentum": 1e-6, "velocity": 5e-10, "velocity_inner_miss": 1e-10, "velocity_outer_miss": 3e-10,
    "turned": 1e-5, "nk_turned": 1e-9, "nm_outer_miss": 3e-10, "npm": 3e-10, "npm_inner_miss": 1e-10, "npm_outer_miss": 3e-10, "pieces": 2e-6,
    "nqc": 2e-10, "nqc_miss": 3e-10, "npm_miss": 2e-10, "km_miss": 2e-10,
    "row_calls": 1.5e-6, "row_blocks": 1e-6, "row_npkm": 2.2e-11, "row_npk": 5e-11, "row_npmw": 4e-11, "row_rows_km": 2e-10, "row_copies": 4e-10,
    "patch_calls": 1e-6, "patch_npkm": 2.1e-11, "patch_npk": 3e-10, "patch_npk_miss": 3e-10, "patch_runs": 1e-8, "patch_blocks_km": 2e-10, "patch_copies": 2e-10,
    "whole_m": 3e-8, "whole_runs": 6e-9, "whole_nqm": 2e-10, "w": 1e-6, "runs": 1e-8, "npmw": 3e-10, "nqm": 3e-10, "nqm_inner_miss": 1e-10, "nqm_outer_miss": 3e-10,
}  # fmt: skip
SUMS = tuple(1 << power for power in range(6, 23, 2))


def true_time_s(kernel: Kernel, shape: Shape, working_set: int) -> float:
    """Return what the known coefficients make of ``kernel`` on ``shape``."""
    return sum(
        TRUTH[name] * value for name, value in features(kernel, shape, working_set, CACHES).items()
    )


@cache
def measured(num_rungs: int) -> tuple[tuple[Kernel, Shape, int], ...]:
    """Return what the kernels of a ladder work on, each once, and the bytes that are held."""
    found: dict[tuple[Kernel, Shape, int], None] = {}
    for workload in ladder(num_rungs):
        role = plan_step(workload, Mesh()).roles[0]
        ops = [op for op in role.ops if isinstance(op, Compute)]
        found |= dict.fromkeys((op.kernel, op.shape, role.nbytes) for op in ops)
    return tuple(found)


def kernel_samples(
    num_rungs: int = 112, noise: float = 0.0, outliers: float = 0.0
) -> list[KernelSample]:
    """Return a sample of every kernel on a ladder, with log-normal ``noise``.

    A share ``outliers`` of them is five times as slow, as when another process took the core.
    """
    generator = np.random.Generator(np.random.PCG64(7))
    found = []

    def add(kernel: Kernel, shape: Shape, working_set: int) -> None:
        spoilt = 5.0 if generator.random() < outliers else 1.0
        time_s = (
            true_time_s(kernel, shape, working_set)
            * spoilt
            * float(np.exp(noise * generator.standard_normal()))
        )
        found.append(
            KernelSample(
                kernel=kernel,
                **asdict(shape),
                working_set=working_set,
                time_s=time_s,
            )
        )

    for kernel, shape, working_set in measured(num_rungs):
        add(kernel, shape, working_set)
    for elements in SUMS:
        add(Kernel.ACCUMULATE, Shape(0, 0, elements), 8 * elements)
        for kernel in (Kernel.TRANSPOSE, Kernel.TRANSPOSE_BACKWARD):
            add(kernel, Shape(16, 0, elements // 16), 8 * elements)
    return found


def all_samples() -> list[Sample]:
    """Return samples of every kind."""
    found: list[Sample] = list(kernel_samples(32))
    for is_busy, factor in ((False, 1.0), (True, 1.3)):
        found += [
            StepSample(net=f"{width}-4", batch=8, is_neighbour_busy=is_busy, time_s=factor * (1e-3 + 2e-5),
                       ops_s=1e-3, rel_sigma=0.03)
            for width in (8, 16, 32)
        ]  # fmt: skip
    for tier, alpha_s in ((Tier.NODE, 1e-6), (Tier.NETWORK, 2e-5)):
        for kind in ("exchange", "allreduce"):
            found += [
                MessageSample(
                    kind=kind,
                    tier=tier,
                    ranks=2,
                    nbytes=1 << power,
                    time_s=alpha_s + 1e-9 * (1 << power),
                )  # type: ignore[arg-type]
                for power in range(2, 24)
            ]
    found += [
        StorageSample(nbytes=1 << power, time_s=2e-3 + 1e-9 * (1 << power)) for power in (12, 20)
    ]
    return [*found, OverlapSample(tier=Tier.NODE, nbytes=1 << 22, blocking_s=1e-2, left_s=7e-3)]
