"""The fit: from samples to the numbers of a Machine. Pure: the same samples give the same Machine.

Times range over six decades, so what is made small is the *relative* error, and robustly: a
sample that a busy neighbour spoilt counts for less the farther off it is (iteratively reweighted
non-negative least squares, with Cauchy weights).
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from calibration.features import features
from calibration.machine import Curve, KernelModel, Range, Segment, Storage
from calibration.processor import CPU, Processor
from calibration.samples import KernelSample, MessageSample, StepSample, StorageSample
from exec.errors import MachineError
from exec.program.ops import Kernel, Shape

INNER_CACHES = (1 << 18, 1 << 19, 1 << 20, 1 << 21)
OUTER_CACHES = (1 << 22, 1 << 23, 1 << 24, 1 << 25)
GPU_CACHES = tuple((megabytes * 10**6, 1 << 62) for megabytes in (4, 8, 16, 25, 32, 40, 50, 64, 96))
"""Of a GPU the second level, of which each half of a chip may see its own half; then the memory."""
_SCALE = 0.1  # relative error at which a sample's weight is halved
_SURE = 3.0  # standard errors by which a burst must show
_MAD_TO_SIGMA = 1.4826
_KNEES = (512, 8 << 10, 64 << 10, 1 << 20)
_LAST_KNEE = float(1 << 62)

Floats = NDArray[np.float64]


def robust_relative_fit(matrix: Floats, times_s: Floats) -> tuple[Floats, Floats]:
    """Return non-negative coefficients of ``matrix`` (samples x features) and the log residuals.

    Source: P. Holland and R. Welsch, "Robust regression using iteratively reweighted
    least-squares", Commun. Stat. 6 (1977) 813-827.
    """
    scale = matrix.max(axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    weights = 1.0 / times_s
    coefficients = np.zeros(matrix.shape[1])
    for _ in range(8):
        coefficients, _ = nnls(scaled * weights[:, None], times_s * weights, maxiter=10_000)
        error = scaled @ coefficients / times_s - 1.0
        weights = 1.0 / times_s / np.sqrt(1.0 + (error / _SCALE) ** 2)
    fitted = np.maximum(scaled @ coefficients, 1e-12)
    return coefficients / scale, np.log(times_s / fitted)


def robust_sigma(residuals: Sequence[float] | Floats) -> float:
    """Return the standard deviation that the median absolute residual implies."""
    return _MAD_TO_SIGMA * float(np.median(np.abs(residuals))) if len(residuals) else 0.0


def fit_kernels(
    samples: Sequence[KernelSample], processor: Processor = CPU
) -> tuple[dict[Kernel, KernelModel], tuple[int, int]]:
    """Return a model of every kernel in ``samples`` and the cache sizes that explain them best.

    Raises:
        MachineError: a kernel has too few samples, or a time that is not positive.
    """
    groups: dict[Kernel, list[KernelSample]] = defaultdict(list)
    for sample in _calmest(samples):
        groups[sample.kernel].append(sample)
    for kernel, group in groups.items():
        if len(group) < 5:
            raise MachineError(f"{kernel} must have at least 5 samples, got {len(group)}")

    def cost(caches: tuple[int, int]) -> float:
        residuals = np.concatenate([_fit_kernel(k, g, caches, processor)[1] for k, g in groups.items()])  # fmt: skip
        return float(np.log1p((residuals / _SCALE) ** 2).sum())

    is_cpu = not processor.device.has_streams
    caches = min(itertools.product(INNER_CACHES, OUTER_CACHES) if is_cpu else GPU_CACHES, key=cost)
    return {
        kernel: _fit_kernel(kernel, group, caches, processor)[0] for kernel, group in groups.items()
    }, caches


def _calmest(samples: Sequence[KernelSample]) -> list[KernelSample]:
    """Return, of the samples that measure the same, the fastest: the machine was least disturbed."""
    found: dict[tuple[Kernel, Shape, int], KernelSample] = {}
    for sample in samples:
        if not sample.time_s > 0:
            raise MachineError(f"the time of {sample.kernel} must be positive, got {sample.time_s}")
        key = (sample.kernel, sample.shape, sample.working_set)
        if key not in found or sample.time_s < found[key].time_s:
            found[key] = sample
    return list(found.values())


def _fit_kernel(
    kernel: Kernel, group: Sequence[KernelSample], caches: tuple[int, int], processor: Processor
) -> tuple[KernelModel, Floats]:
    shapes = [sample.shape for sample in group]
    rows = [
        features(kernel, shape, sample.working_set, caches, processor)
        for shape, sample in zip(shapes, group, strict=True)
    ]
    matrix = np.array([list(row.values()) for row in rows], dtype=float)
    times_s = np.array([sample.time_s for sample in group])
    coefficients, residuals = robust_relative_fit(matrix, times_s)

    def span(letter: str) -> Range:
        values = [getattr(shape, letter) for shape in shapes]
        return Range(low=min(values), high=max(values))

    model = KernelModel(
        coefficients_s=dict(zip(rows[0], map(float, coefficients), strict=True)),
        n=span("n"), k=span("k"), m=span("m"), p=span("p"), q=span("q"), w=span("w"),
        rel_sigma=robust_sigma(residuals), num_samples=len(group),
    )  # fmt: skip
    return model, residuals


def fit_curve(sizes: Sequence[float], times_s: Sequence[float], source: str) -> Curve:
    """Return the piecewise linear curve of ``times_s`` over ``sizes`` (bytes).

    Each segment is fitted to its own samples; one with fewer than three sizes joins the next.

    Raises:
        MachineError: fewer than two sizes, or a time that is not positive.
    """
    points = sorted(zip(sizes, times_s, strict=True))
    if len({size for size, _ in points}) < 2 or any(not t > 0 for _, t in points):
        raise MachineError("a link needs positive times of at least 2 message sizes")
    segments: list[Segment] = []
    residuals: list[float] = []
    for knee, group in _segments(points):
        sizes_in, times_in = np.array(group).T
        matrix = np.column_stack([np.ones_like(sizes_in), sizes_in])
        (alpha_s, beta_s_per_byte), left = robust_relative_fit(matrix, times_in)
        segments.append(Segment(up_to_nbytes=knee, alpha_s=float(alpha_s),
                                beta_s_per_byte=float(beta_s_per_byte)))  # fmt: skip
        residuals += list(left)
    return Curve(
        segments=tuple(segments),
        nbytes=Range(low=min(sizes), high=max(sizes)),
        rel_sigma=robust_sigma(residuals),
        source=source,
    )


def _segments(
    points: Sequence[tuple[float, float]],
) -> list[tuple[float, list[tuple[float, float]]]]:
    """Return ``(up_to_nbytes, points)`` of each segment that has at least three sizes."""
    found: list[tuple[float, list[tuple[float, float]]]] = []
    pending: list[tuple[float, float]] = []
    below = -1.0
    for knee in (*_KNEES, _LAST_KNEE):
        pending += [point for point in points if below < point[0] <= knee]
        below = knee
        if len({size for size, _ in pending}) >= 3:
            found.append((float(knee), pending))
            pending = []
    if not found:
        return [(_LAST_KNEE, pending)]
    return [*found[:-1], (_LAST_KNEE, found[-1][1] + pending)]


def fit_burst(curve: Curve, rested: Sequence[tuple[float, float]]) -> float:
    """Return how many bytes a link lets pass at once after a rest, 0 if it is not sure that it does.

    ``rested`` are sizes and times of exchanges after a rest; ``curve`` is of exchanges in a row. Of a
    token bucket of B bytes a message of n > B is as fast as one of n - B; what is saved in proportion
    to n is none of its doing. So B is where a line through what was saved, over n, begins.
    """
    if len({nbytes for nbytes, _ in rested}) < 3:
        return 0.0
    sizes, times_s = np.array(rested, dtype=float).T
    alphas_s, betas = np.array([curve.at(nbytes) for nbytes in sizes]).T
    if not betas.all():
        return 0.0
    saved = sizes - (times_s - alphas_s) / betas
    # Errors are shares of the times, so of the sizes.
    matrix = np.column_stack([np.ones_like(sizes), sizes]) / sizes[:, None]
    (burst, share), *_ = np.linalg.lstsq(matrix, saved / sizes, rcond=None)
    left = saved / sizes - matrix @ np.array([burst, share])
    variance = float(left @ left) / max(1, len(sizes) - 2)
    error = math.sqrt(variance * float(np.linalg.inv(matrix.T @ matrix)[0, 0]))
    return float(burst) if burst > _SURE * max(error, curve.rel_sigma * float(sizes.min())) else 0.0


def fit_allreduce(samples: Sequence[MessageSample], source: str) -> Curve:
    """Return the two-rank all-reduce curve that ``samples``, of any rank counts, imply.

    Inverts the two terms of :func:`sim.collectives.library_allreduce_s`: small messages cost
    ``log2 p`` latencies, and large ones ``2 (p - 1) / p`` transfers, of the two-rank curve.

    Raises:
        MachineError: fewer than two sizes, or a time that is not positive.
    """
    if not samples:
        raise MachineError("a link needs times of all-reduces too, got none")
    by_ranks: dict[int, list[MessageSample]] = defaultdict(list)
    for sample in samples:
        by_ranks[sample.ranks].append(sample)
    closest = min(by_ranks)
    group = by_ranks[closest]
    latencies, transfers = math.ceil(math.log2(closest)), 2.0 * (closest - 1) / closest
    curve = fit_curve([s.nbytes for s in group], [s.time_s for s in group], source)
    segments = tuple(
        segment.model_copy(update={
            "alpha_s": segment.alpha_s / latencies,
            "beta_s_per_byte": segment.beta_s_per_byte / transfers,
        })
        for segment in curve.segments
    )  # fmt: skip
    return curve.model_copy(update={"segments": segments})


def fit_step_costs(steps: Sequence[StepSample]) -> tuple[float, float]:
    """Return what a step costs beside its ops, and by how much each op was timed too long.

    With T the time of a whole step, and n ops that were timed one by one between events, which take
    a moment of their own and hold back what follows:

        T = step + sum_i (t_i - event)

    What is found for ``event`` may be negative: ops may also take longer one after another.
    """
    times_s = np.array([step.time_s for step in steps])
    rest_s = times_s - np.array([step.ops_s for step in steps])
    counts = np.array([step.num_ops for step in steps], dtype=float)
    matrix = np.column_stack([np.ones_like(counts), counts, -counts])
    weights = 1.0 / times_s
    for _ in range(8):
        found, _ = nnls(matrix * weights[:, None], rest_s * weights, maxiter=10_000)
        error = (matrix @ found - rest_s) / times_s
        weights = 1.0 / times_s / np.sqrt(1.0 + (error / _SCALE) ** 2)
    step_s, too_short_s, too_long_s = map(float, found)
    return step_s, too_long_s - too_short_s


def fit_storage(samples: Sequence[StorageSample], source: str) -> Storage:
    """Return what checkpoints of any size cost.

    Raises:
        MachineError: fewer than two sizes.
    """
    sizes = np.array([sample.nbytes for sample in samples], dtype=float)
    if len(set(sizes)) < 2:
        raise MachineError(f"storage needs times of at least 2 sizes, got {len(set(sizes))}")
    matrix = np.column_stack([np.ones_like(sizes), sizes])
    times_s = np.array([sample.time_s for sample in samples])
    (fixed_s, s_per_byte), residuals = robust_relative_fit(matrix, times_s)
    return Storage(
        source=source, fixed_s=float(fixed_s), s_per_byte=float(s_per_byte),
        nbytes=Range(low=float(sizes.min()), high=float(sizes.max())),
        rel_sigma=robust_sigma(residuals),
    )  # fmt: skip
