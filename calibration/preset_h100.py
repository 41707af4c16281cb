"""The preset of H100 nodes: kernels as measured by us if they were, links as published.

Until there is a file ``machine-h100*.json`` in ``paper/measurements``, which ``python -m calibration
--device gpu`` makes on one GPU, kernels cost what the datasheet and a few assumptions make of them.
"""

from pathlib import Path

from calibration import published
from calibration.features import features
from calibration.fit import fit_allreduce, fit_curve
from calibration.machine import (
    Compute,
    Curve,
    KernelModel,
    Link,
    Machine,
    Range,
    Segment,
    Tier,
    read_machine,
)
from calibration.preset_curves import OTHER_SYSTEM_REL_SIGMA, allreduce_samples, widened
from calibration.processor import Processor
from exec.device.kind import DeviceKind
from exec.program.ops import Kernel, Shape

MEASUREMENTS = Path(__file__).parents[1] / "paper" / "measurements"

_GPUS_PER_NODE = 8
_H100 = Processor(DeviceKind.GPU, published.H100_MULTIPROCESSORS)
_LAUNCH_S = published.SHORT_KERNEL_US * 1e-6
_ACHIEVED_FLOPS, _ACHIEVED_BYTES = 0.75, 0.85
_REL_SIGMA = 0.5
_OVERLAP_SHARE = 0.8
_STEP_OVERHEAD_S, _NOISE = 20e-6, 0.05
_ITEMSIZE = 4


def h100_node(measurements: Path = MEASUREMENTS) -> Machine:
    """Return nodes of 8 H100 SXM with NVLink inside, and an NDR NIC a GPU between them.

    ``measurements`` is where a Machine measured on one H100 may lie.

    Raises:
        MachineError: it is there, but damaged.
    """
    found = sorted(measurements.glob("machine-h100*.json"))
    measured = read_machine(found[0]) if found else None
    if measured is not None and measured.compute is not None:
        compute = _of_a_node(measured.compute, measured, found[0].name)
        how = f"kernels measured by us on one of them ({found[0].name}), links published by others"
    else:
        compute = _from_datasheet()
        how = "unmeasured by us: a datasheet, published NCCL figures and estimates"
    return Machine(
        format="stepcast-machine-1",
        name="h100-node",
        description=(
            f"nodes of {_GPUS_PER_NODE} NVIDIA H100 SXM, a rank a GPU, NVLink and NDR InfiniBand; "
            f"{how}; overlap_share {_OVERLAP_SHARE} is assumed, for NCCL has its own stream but "
            "shares the multiprocessors"
        ),
        provenance={"built_by": "python -m calibration.presets"},
        compute=compute,
        copies=measured.copies if measured is not None else {},
        links={Tier.NODE: _nvlink(), Tier.NETWORK: _ndr()},
        overlap_share=_OVERLAP_SHARE,
    )


def _of_a_node(compute: Compute, measured: Machine, name: str) -> Compute:
    """Return what one GPU's ``compute`` is on a node of eight."""
    provenance = measured.provenance
    source = (
        f"measured by Stepcast on {provenance.get('gpu', 'one GPU')}, "
        f"{provenance.get('date', 'undated')[:10]}: paper/measurements/{name}"
    )
    return compute.model_copy(update={
        "source": source, "cores_per_node": _GPUS_PER_NODE,
        "memory_nbytes": _GPUS_PER_NODE * compute.memory_nbytes_per_core, "busy_slowdown": 1.0,
    })  # fmt: skip


def _from_datasheet() -> Compute:
    return Compute(
        device=_H100.device,
        num_multiprocessors=_H100.num_multiprocessors,
        launch_s=_LAUNCH_S,
        source=(
            f"{published.H100_SOURCE}; assumed: {_ACHIEVED_FLOPS:.0%} of these flops are reached in "
            f"whole waves of tiles, and {_ACHIEVED_BYTES:.0%} of these bytes, whatever the cache "
            f"holds; a kernel of a graph costs {published.SHORT_KERNEL_US} us beside them "
            f"({published.LAUNCH_SOURCE}); step overhead and noise are assumed"
        ),
        dtype="float32",
        cores_per_node=_GPUS_PER_NODE,
        memory_nbytes=_GPUS_PER_NODE * published.H100_MEMORY_NBYTES,
        cache_nbytes=(published.H100_L2_NBYTES, published.H100_MEMORY_NBYTES),
        kernels={kernel: _kernel(kernel) for kernel in Kernel},
        step_overhead_s=_STEP_OVERHEAD_S,
        busy_slowdown=1.0,
        noise_rel_sigma=_NOISE,
    )


_LAUNCHES = {
    Kernel.LINEAR: 2, Kernel.LINEAR_BACKWARD: 3, Kernel.LINEAR_BACKWARD_FIRST: 2,
    Kernel.CONV: 2, Kernel.CONV_BACKWARD: 3, Kernel.CONV_BACKWARD_FIRST: 2,
    Kernel.BATCHNORM_SUMS: 2, Kernel.BATCHNORM_BACKWARD_SUMS: 2,
}  # fmt: skip
"""Kernels that an op launches, if they are more than one: products, and what goes over biases."""


def _kernel(kernel: Kernel) -> KernelModel:
    """Return launches, plus flops at their rate, plus bytes at theirs: no overlap of the three.

    The ranges are empty, for nothing was measured, so all that is asked counts as extrapolated.
    """
    rates = {
        "fixed": _LAUNCHES.get(kernel, 1) * _LAUNCH_S,
        "wave_flops_32": 1.0 / (_ACHIEVED_FLOPS * published.H100_FLOPS_PER_S),
        "moved": _ITEMSIZE / (_ACHIEVED_BYTES * published.H100_BYTES_PER_S),
        "velocity": 2 * _ITEMSIZE / (_ACHIEVED_BYTES * published.H100_BYTES_PER_S),
    }
    nothing = Range(low=0, high=0)
    return KernelModel(
        coefficients_s={name: rates.get(name, 0.0) for name in features(kernel, Shape(1, 1, 1), 1, (1, 1), _H100)},
        n=nothing, k=nothing, m=nothing, p=nothing, q=nothing, w=nothing,
        rel_sigma=_REL_SIGMA, num_samples=0,
    )  # fmt: skip


def _nvlink() -> Link:
    """Return the link inside the node: a message is one of the steps of a ring all-gather.

    An all-gather of n bytes over p ranks passes p - 1 messages of n / p on.
    """
    gather, total = published.NVLINK_ALLGATHER, published.NVLINK_ALLREDUCE
    steps = gather.ranks - 1
    message = fit_curve(
        [nbytes / gather.ranks for nbytes in gather.sizes],
        [time_s / steps for time_s in gather.times_s],
        f"{gather.source}; a message is taken as one of its {steps} steps",
    )
    allreduce = fit_allreduce(allreduce_samples(total, Tier.NODE), total.source)
    return Link(
        message=widened(message),
        allreduce=widened(allreduce),
        allreduce_ranks=Range(low=total.ranks, high=total.ranks),
        from_device=True,
    )


def _ndr() -> Link:
    """Return the link between nodes: one NIC for a message, all of the node's for an all-reduce."""

    def curve(nics: int) -> Curve:
        segment = Segment(
            up_to_nbytes=float(1 << 62),
            alpha_s=published.NDR_LATENCY_US * 1e-6,
            beta_s_per_byte=1.0 / (nics * published.NDR_NIC_BYTES_PER_S),
        )
        # Only its ends were published: the latency at 8 bytes, the bandwidth at gigabytes.
        return Curve(segments=(segment,), nbytes=Range(low=8, high=1 << 33),
                     rel_sigma=OTHER_SYSTEM_REL_SIGMA, source=published.NDR_SOURCE)  # fmt: skip

    return Link(
        message=curve(1),
        allreduce=curve(published.NDR_NICS_PER_NODE),
        allreduce_ranks=Range(low=2, high=2),
        from_device=True,
        lanes=published.NDR_NICS_PER_NODE,
    )
