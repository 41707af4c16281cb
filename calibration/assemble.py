"""Assemble a Machine from samples: every section fitted, with its range, spread and source."""

import statistics
from collections.abc import Iterable, Sequence

from calibration.fit import fit_allreduce, fit_curve, fit_kernels, fit_storage
from calibration.machine import Compute, Link, Machine, Range, Tier
from calibration.samples import (
    KernelSample,
    MessageSample,
    OverlapSample,
    Sample,
    StepSample,
    StorageSample,
)
from exec.errors import MachineError


def assemble(
    name: str,
    provenance: dict[str, str],
    samples: Sequence[Sample],
    *,
    cores_per_node: int,
    memory_nbytes: int,
) -> Machine:
    """Return the Machine that ``samples`` make; what they lack, it lacks.

    Raises:
        MachineError: there are samples of a kind, but too few or impossible ones.
    """
    source = f"{provenance['command']}, {provenance['date']}, on {provenance['cpu']}"
    compute = None
    if any(isinstance(sample, KernelSample) for sample in samples):
        compute = _compute(samples, source, cores_per_node, memory_nbytes)
    links = {}
    for tier in Tier:
        messages = [s for s in samples if isinstance(s, MessageSample) and s.tier == tier]
        if messages:
            links[tier] = _link(messages, source)
    saves = [sample for sample in samples if isinstance(sample, StorageSample)]
    overlaps = [sample for sample in samples if isinstance(sample, OverlapSample)]
    shares = [1.0 - sample.left_s / sample.blocking_s for sample in overlaps]
    return Machine(
        format="stepcast-machine-1",
        name=name,
        description=f"{provenance['cpu']}, {cores_per_node} cores a node",
        provenance=provenance,
        compute=compute,
        links=links,
        storage=fit_storage(saves, source) if saves else None,
        overlap_share=min(1.0, max(0.0, statistics.median(shares))) if shares else 0.0,
    )


def _compute(
    samples: Sequence[Sample], source: str, cores_per_node: int, memory_nbytes: int
) -> Compute:
    kernels, caches = fit_kernels([s for s in samples if isinstance(s, KernelSample)])
    steps = [sample for sample in samples if isinstance(sample, StepSample)]
    alone = _calmest(s for s in steps if not s.is_neighbour_busy)
    if not alone:
        raise MachineError("kernel samples must come with steps without a busy neighbour, got none")
    beside = _calmest(s for s in steps if s.is_neighbour_busy)
    ratios = [beside[key].time_s / alone[key].time_s for key in beside if key in alone]
    return Compute(
        source=source,
        dtype="float32",
        cores_per_node=cores_per_node,
        memory_nbytes=memory_nbytes,
        cache_nbytes=caches,
        kernels=kernels,
        step_overhead_s=max(0.0, statistics.median(s.time_s - s.ops_s for s in alone.values())),
        busy_slowdown=max(1.0, statistics.median(ratios)) if ratios else 1.0,
        noise_rel_sigma=statistics.median(s.rel_sigma for s in alone.values()),
    )


def _calmest(steps: Iterable[StepSample]) -> dict[tuple[str, int], StepSample]:
    """Return the fastest sample of each network and batch."""
    found: dict[tuple[str, int], StepSample] = {}
    for step in steps:
        key = (step.net, step.batch)
        if key not in found or step.time_s < found[key].time_s:
            found[key] = step
    return found


def _link(messages: Sequence[MessageSample], source: str) -> Link:
    exchanges = [m for m in messages if m.kind == "exchange"]
    sums = [m for m in messages if m.kind == "allreduce"]
    ranks = [m.ranks for m in sums]
    return Link(
        message=fit_curve([m.nbytes for m in exchanges], [m.time_s for m in exchanges], source),
        allreduce=fit_allreduce(sums, source),
        allreduce_ranks=Range(low=min(ranks), high=max(ranks)),
    )
