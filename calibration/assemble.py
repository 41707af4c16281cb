"""Assemble a Machine from samples: every section fitted, with its range, spread and source."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.fit import (
    fit_allreduce,
    fit_burst,
    fit_curve,
    fit_kernels,
    fit_step_costs,
    fit_storage,
)
from calibration.machine import (
    Compute,
    CopyDirection,
    Curve,
    Link,
    Machine,
    NoiseModel,
    Range,
    Tier,
)
from calibration.processor import Processor
from calibration.samples import (
    CopySample,
    KernelSample,
    LaunchSample,
    MessageSample,
    OverlapSample,
    Sample,
    StepSample,
    StorageSample,
)
from exec.device.kind import DeviceKind
from exec.errors import MachineError
from exec.noise import measured_noise


def assemble(
    name: str,
    provenance: dict[str, str],
    samples: Sequence[Sample],
    *,
    cores_per_node: int,
    memory_nbytes: int,
) -> Machine:
    """Return the Machine that ``samples`` make; what they lack, it lacks.

    ``provenance`` says what was measured on: a CPU, or the ``device`` that it names.

    Raises:
        MachineError: there are samples of a kind, but too few or impossible ones.
    """
    chip = _Chip.of(provenance)
    source = f"{provenance['command']}, {provenance['date']}, on {chip.name}"
    compute = None
    if any(isinstance(sample, KernelSample) for sample in samples):
        compute = _compute(samples, chip, source, cores_per_node, memory_nbytes)
    links = {}
    for tier in Tier:
        messages = [s for s in samples if isinstance(s, MessageSample) and s.tier == tier]
        if messages:
            links[tier] = _link(messages, source, from_device=chip.is_gpu)
    saves = [sample for sample in samples if isinstance(sample, StorageSample)]
    overlaps = [sample for sample in samples if isinstance(sample, OverlapSample)]
    shares = [1.0 - sample.left_s / sample.blocking_s for sample in overlaps]
    return Machine(
        format="stepcast-machine-1",
        name=name,
        description=f"{chip.name}, {cores_per_node} {chip.unit}{'s' * (cores_per_node > 1)} a node",
        provenance=provenance,
        compute=compute,
        copies=_copies(samples, source),
        links=links,
        storage=fit_storage(saves, source) if saves else None,
        overlap_share=min(1.0, max(0.0, statistics.median(shares))) if shares else 0.0,
    )


@dataclass(frozen=True, slots=True)
class _Chip:
    name: str
    processor: Processor
    is_tf32: bool

    @property
    def is_gpu(self) -> bool:
        return self.processor.device.has_streams

    @property
    def unit(self) -> str:
        return "GPU" if self.is_gpu else "core"

    @staticmethod
    def of(provenance: dict[str, str]) -> "_Chip":
        """Return what the samples were measured on, as their provenance says."""
        try:
            device = DeviceKind(provenance.get("device", DeviceKind.CPU))
            processor = Processor(device, int(provenance.get("multiprocessors", "1")))
        except ValueError as error:
            raise MachineError(f"the provenance of samples must name a device: {error}") from error
        name = provenance["gpu"] if device.has_streams else provenance["cpu"]
        return _Chip(name, processor, provenance.get("tf32") == "on")


def _compute(
    samples: Sequence[Sample], chip: _Chip, source: str, cores_per_node: int, memory_nbytes: int
) -> Compute:
    steps = [sample for sample in samples if isinstance(sample, StepSample)]
    alone = _calmest(s for s in steps if not s.is_neighbour_busy)
    if not alone:
        raise MachineError("kernel samples must come with steps without a busy neighbour, got none")
    beside = _calmest(s for s in steps if s.is_neighbour_busy)
    ratios = [beside[key].time_s / alone[key].time_s for key in beside if key in alone]
    timed = [s for s in samples if isinstance(s, KernelSample)]
    if chip.is_gpu:
        overhead_s, event_s = fit_step_costs(list(alone.values()))
        timed = [_without_event(sample, event_s) for sample in timed]
    else:
        overhead_s = max(0.0, statistics.median(s.time_s - s.ops_s for s in alone.values()))
    kernels, caches = fit_kernels(timed, chip.processor)
    launches = [sample.time_s for sample in samples if isinstance(sample, LaunchSample)]
    return Compute(
        device=chip.processor.device,
        num_multiprocessors=chip.processor.num_multiprocessors,
        is_tf32=chip.is_tf32,
        launch_s=statistics.median(launches) if launches else 0.0,
        source=source,
        dtype="float32",
        cores_per_node=cores_per_node,
        memory_nbytes=memory_nbytes,
        cache_nbytes=caches,
        kernels=kernels,
        step_overhead_s=overhead_s,
        busy_slowdown=max(1.0, statistics.median(ratios)) if ratios else 1.0,
        noise_rel_sigma=statistics.median(s.rel_sigma for s in alone.values()),
        noise=_noise([s for s in alone.values() if s.quantiles]),
    )


def _noise(steps: Sequence[StepSample]) -> NoiseModel | None:
    """Return the middle of how ``steps`` differ from turn to turn, or None if nothing tells."""
    if not steps:
        return None
    quantiles = np.median([step.quantiles for step in steps], axis=0)
    return NoiseModel.of(measured_noise(quantiles, statistics.median(s.tail for s in steps)))


_LEAST_KERNEL_S = 1e-7
"""What an op counts that another does as well: a fit of relative errors cannot take nothing."""


def _without_event(sample: KernelSample, event_s: float) -> KernelSample:
    """Return ``sample`` without what timing it has cost."""
    return sample.model_copy(update={"time_s": max(sample.time_s - event_s, _LEAST_KERNEL_S)})


def _copies(samples: Sequence[Sample], source: str) -> dict[CopyDirection, Curve]:
    found = {}
    for direction in CopyDirection:
        copies = [s for s in samples if isinstance(s, CopySample) and s.direction is direction]
        if copies:
            found[direction] = fit_curve([s.nbytes for s in copies], [s.time_s for s in copies], source)  # fmt: skip
    return found


def _calmest(steps: Iterable[StepSample]) -> dict[tuple[str, int], StepSample]:
    """Return the fastest sample of each network and batch."""
    found: dict[tuple[str, int], StepSample] = {}
    for step in steps:
        key = (step.net, step.batch)
        if key not in found or step.time_s < found[key].time_s:
            found[key] = step
    return found


def _link(messages: Sequence[MessageSample], source: str, *, from_device: bool) -> Link:
    exchanges = [m for m in messages if m.kind == "exchange"]
    sums = [m for m in messages if m.kind == "allreduce"]
    ranks = [m.ranks for m in sums]
    windows: dict[int, list[MessageSample]] = defaultdict(list)
    barriers: dict[int, list[float]] = defaultdict(list)
    for each in messages:
        if each.kind == "window":
            windows[each.ranks].append(each)
        elif each.kind == "barrier":
            barriers[each.ranks].append(each.time_s)
    curves = {count: fit_curve([m.nbytes for m in own], [m.time_s for m in own], source) for count, own in windows.items()}  # fmt: skip
    barriers_s = {count: statistics.median(times_s) for count, times_s in barriers.items()}
    rested = [(m.nbytes, m.time_s) for m in messages if m.kind == "rested"]
    message = fit_curve([m.nbytes for m in exchanges], [m.time_s for m in exchanges], source)
    return Link(
        message=message,
        allreduce=fit_allreduce(sums, source),
        allreduce_ranks=Range(low=min(ranks), high=max(ranks)),
        from_device=from_device,
        burst_nbytes=fit_burst(message, rested),
        window=curves.pop(2, None),
        barrier_s=barriers_s.pop(2, None),
        windows=curves,
        barriers_s=barriers_s,
    )
