"""A GPU that a test knows: its times are not sums of features, as a real one's are not."""

from dataclasses import asdict
from functools import cache

import numpy as np

from calibration.gpu_features import gpu_features
from calibration.ladder import GPU_BOUNDS, ladder
from calibration.machine import CopyDirection
from calibration.processor import Processor
from calibration.samples import CopySample, KernelSample, LaunchSample, Sample, StepSample
from exec.device.kind import DeviceKind
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Compute, Kernel, Shape
from exec.workload import Workload

Tiles = tuple[tuple[int, int, float], ...]
PROCESSOR = Processor(DeviceKind.GPU, 132)
PROVENANCE = {
    "cpu": "made up", "command": "none", "date": "2026-11-21", "device": "gpu", "gpu": "made up GPU",
    "multiprocessors": "132", "tf32": "off",
}  # fmt: skip
FLOPS_PER_S, BYTES_PER_S, L2_BYTES_PER_S, L2_NBYTES = 5e13, 2.8e12, 7e12, 40_000_000
LAUNCH_S, EVENT_S, STEP_S = 2.5e-6, 1.5e-6, 8e-6
_OVERLAPPED = 0.7  # of the shorter of compute and memory


def true_time_s(kernel: Kernel, shape: Shape, held: int, tiles: Tiles) -> float:
    """Return what the GPU takes: a launch, and the longer of multiplying and moving, and some more."""
    found = gpu_features(kernel, shape, max(0.0, 1 - L2_NBYTES / held), L2_NBYTES, 132)
    moved, streamed = 4 * found["moved"], 4 * max(found["moved_streamed"], found["moved_missed"])
    memory_s = streamed / BYTES_PER_S + (moved - streamed) / L2_BYTES_PER_S
    compute_s = sum(product_s(product, tiles) for product in products_of(kernel, shape))
    compute_s += 1e-12 * found.get("channel_waves", 0.0) + 2e-13 * found.get("windows", 0.0)
    longer_s, shorter_s = max(compute_s, memory_s), min(compute_s, memory_s)
    launches = 2 if kernel in (Kernel.LINEAR_BACKWARD, Kernel.CONV_BACKWARD) else 1
    return launches * LAUNCH_S + longer_s + (1 - _OVERLAPPED) * shorter_s


def products_of(kernel: Kernel, shape: Shape) -> list[tuple[int, int, int]]:
    """Return rows, columns and the length of the sums of each product of a layer."""
    n, k, m, p, q, w = shape.n, shape.k, shape.m, shape.p, shape.q, shape.w
    forward, weights = (m, n * p, k), (m, k, n * p)
    inputs = (k // w, n * q, max(1, m * w * p // q))
    match kernel:
        case Kernel.LINEAR | Kernel.CONV:
            return [forward]
        case Kernel.LINEAR_BACKWARD_FIRST | Kernel.CONV_BACKWARD_FIRST:
            return [weights]
        case Kernel.LINEAR_BACKWARD | Kernel.CONV_BACKWARD:
            return [weights, inputs]
        case _:
            return []


SQUARE = ((128, 128, 1.0), (64, 64, 1.2), (32, 32, 1.6))
OBLONG = ((256, 128, 0.95), (128, 64, 1.05), (64, 32, 1.35))
"""Tiles that the features do not know."""


def product_s(product: tuple[int, int, int], tiles: Tiles) -> float:
    """Return the time of a product in the tiles that end first."""
    rows, columns, length = product
    best_s = float("inf")
    for height, width, cost in tiles:
        count = -(-rows // height) * -(-columns // width)
        for parts in (1, 2, 4, 8, 16):
            waves = -(-count * parts // 132)
            steps = -(-length // (8 * parts)) * 8
            flops = 2.0 * cost * height * width * steps * waves * 132
            best_s = min(best_s, flops / FLOPS_PER_S + 3e-9 * steps * waves + 1e-6 * (parts > 1))
    return best_s


@cache
def ops_of(workload: Workload) -> tuple[tuple[Kernel, Shape, int], ...]:
    """Return what a step of ``workload`` does on a GPU, and the bytes that are held."""
    role = plan_step(workload, Mesh(), PlanOptions(device=DeviceKind.GPU)).roles[0]
    return tuple((op.kernel, op.shape, role.nbytes) for op in role.ops if isinstance(op, Compute))


def true_step_s(workload: Workload, tiles: Tiles) -> float:
    """Return the time of a whole step, without a clock around its ops."""
    return STEP_S + sum(true_time_s(*op, tiles) for op in ops_of(workload))


@cache
def rungs(num_rungs: int) -> tuple[Workload, ...]:
    """Return the ladder of a GPU."""
    return tuple(ladder(num_rungs, 4, GPU_BOUNDS))


def samples_on(workloads: tuple[Workload, ...], noise: float, tiles: Tiles) -> list[Sample]:
    """Return what a probe measures, with log-normal ``noise``, and an event around every op."""
    generator = np.random.Generator(np.random.PCG64(7))

    def spoilt(time_s: float) -> float:
        return time_s * float(np.exp(noise * generator.standard_normal()))

    found: list[Sample] = []
    for workload in workloads:
        timed = [(op, spoilt(true_time_s(*op, tiles) + EVENT_S)) for op in ops_of(workload)]
        found += [
            KernelSample(kernel=kernel, **asdict(shape), working_set=held, time_s=time_s)
            for (kernel, shape, held), time_s in timed
        ]
        found.append(StepSample(
            net=workload.net, batch=workload.global_batch, is_neighbour_busy=False,
            time_s=spoilt(true_step_s(workload, tiles)), ops_s=sum(time_s for _, time_s in timed),
            rel_sigma=0.02, num_ops=len(timed),
        ))  # fmt: skip
    for elements in (1 << power for power in range(6, 25, 2)):
        for kernel in (Kernel.ACCUMULATE, Kernel.TRANSPOSE, Kernel.TRANSPOSE_BACKWARD):
            shape = Shape(0, 0, elements) if kernel is Kernel.ACCUMULATE else Shape(16, 0, elements // 16)  # fmt: skip
            time_s = spoilt(true_time_s(kernel, shape, 8 * elements, tiles) + EVENT_S)
            found.append(KernelSample(kernel=kernel, **asdict(shape), working_set=8 * elements, time_s=time_s))  # fmt: skip
    for direction, rate in ((CopyDirection.TO_DEVICE, 5e10), (CopyDirection.TO_HOST, 4e10)):
        found += [CopySample(direction=direction, nbytes=1 << power, time_s=spoilt(8e-6 + (1 << power) / rate)) for power in range(3, 27, 2)]  # fmt: skip
    return [*found, LaunchSample(num_launches=100, time_s=LAUNCH_S)]
