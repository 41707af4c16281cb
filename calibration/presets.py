"""Presets: the Machines that ship with Stepcast, built from published figures.

``python -m calibration.presets`` writes them to ``calibration/machines``. Their links are fitted
to what others published (:mod:`calibration.published`); nobody edits the JSON by hand.
"""

import math
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
    write_machine,
)
from calibration.published import Table
from calibration.samples import MessageSample
from exec.program.ops import Kernel, Shape

MACHINES = Path(__file__).parent / "machines"
MEASURED = Path(__file__).parents[1] / "paper" / "measurements" / "machine-2core-epyc.json"

OTHER_SYSTEM_REL_SIGMA = 0.3
"""Assumed, not measured: how far a system of the same kind is from the one that was published."""

OTHER_COUNTS_REL_SIGMA = 0.35
"""What a fit to one rank count leaves over all published counts, as MPI libraries change their
algorithm with it: the root mean square of the logarithm, rounded up."""

_CORES_PER_NODE, _MEMORY_NBYTES = 32, 128 << 30
_GPUS_PER_NODE = 8
# The published launch costs are one standard deviation to either side of their geometric mean.
_CALL_US = math.sqrt(published.SHORT_KERNEL_US * published.CUPY_CALL_US)
_GPU_REL_SIGMA = math.log(published.CUPY_CALL_US / _CALL_US)
_ACHIEVED_FLOPS, _ACHIEVED_BYTES = 0.75, 0.85
_GPU_OVERLAP_SHARE = 0.8
_GPU_STEP_OVERHEAD_S, _GPU_NOISE = 20e-6, 0.05
_ITEMSIZE = 4

_NO_PROGRESS = (
    "overlap_share is 0: on CPUs a pending non-blocking collective moves only inside MPI calls"
)


def presets() -> list[Machine]:
    """Return the Machines that ship with Stepcast.

    Raises:
        MachineError: the committed samples of the CPU clusters' compute cannot be read.
    """
    return [ethernet_cluster(), infiniband_cluster(), h100_node()]


def ethernet_cluster() -> Machine:
    """Return CPU nodes joined by 10 Gbit/s Ethernet, with MPI over TCP."""
    network = _network(published.ETHERNET_MESSAGE, published.ETHERNET_ALLREDUCE, fitted=8)
    return _cpu_cluster("ethernet-cluster", "10 Gbit/s Ethernet, MPI over TCP", network)


def infiniband_cluster() -> Machine:
    """Return CPU nodes joined by EDR InfiniBand."""
    network = _network(published.INFINIBAND_MESSAGE, published.INFINIBAND_ALLREDUCE, fitted=16)
    return _cpu_cluster("infiniband-cluster", "100 Gbit/s EDR InfiniBand", network)


def _cpu_cluster(name: str, network_is: str, network: Link) -> Machine:
    measured = read_machine(MEASURED)
    provenance = measured.provenance
    assert measured.compute is not None
    source = (
        f"measured by Stepcast on {provenance['cpu']} with {provenance['cores']} cores, "
        f"{provenance['date'][:10]}: paper/measurements/{MEASURED.name}"
    )
    compute = measured.compute.model_copy(update={
        "source": source, "cores_per_node": _CORES_PER_NODE, "memory_nbytes": _MEMORY_NBYTES,
    })  # fmt: skip
    node = measured.links[Tier.NODE]
    node = node.model_copy(update={
        "message": node.message.model_copy(update={"source": source}),
        "allreduce": node.allreduce.model_copy(update={"source": source}),
    })  # fmt: skip
    return measured.model_copy(update={
        "name": name,
        "description": (
            f"{_CORES_PER_NODE}-core nodes (assumed) of {provenance['cpu']}, {network_is}; network "
            f"published by others, not measured by us, cores measured on {provenance['cores']}; "
            f"{_NO_PROGRESS}"
        ),
        "provenance": {
            "built_by": "python -m calibration.presets",
            **{key: provenance[key] for key in ("cpu", "cores", "date") if key in provenance},
        },
        "compute": compute,
        "links": {Tier.NODE: node, Tier.NETWORK: network},
        "overlap_share": 0.0,
    })  # fmt: skip


def _network(message: Table, allreduce: dict[int, Table], *, fitted: int) -> Link:
    """Return the link that the tables make; the all-reduce is fitted to ``fitted`` ranks."""
    table = allreduce[fitted]
    counts = f"fitted to {fitted} ranks, published for {min(allreduce)} to {max(allreduce)}"
    return Link(
        message=_widened(fit_curve(message.sizes, message.times_s, message.source)),
        allreduce=_widened(
            fit_allreduce(_samples(table, Tier.NETWORK), f"{table.source}; {counts}"),
            OTHER_COUNTS_REL_SIGMA,
        ),
        allreduce_ranks=Range(low=min(allreduce), high=max(allreduce)),
    )


def _samples(table: Table, tier: Tier) -> list[MessageSample]:
    return [
        MessageSample(kind="allreduce", tier=tier, ranks=table.ranks, nbytes=nbytes, time_s=time_s)
        for nbytes, time_s in zip(table.sizes, table.times_s, strict=True)
    ]


def _widened(curve: Curve, *more_rel_sigmas: float) -> Curve:
    """Return ``curve`` with the spread of the fit, of other systems of its kind, and more."""
    rel_sigma = math.hypot(curve.rel_sigma, OTHER_SYSTEM_REL_SIGMA, *more_rel_sigmas)
    return curve.model_copy(update={"rel_sigma": rel_sigma})


def h100_node() -> Machine:
    """Return nodes of 8 H100 SXM with NVLink inside, and an NDR NIC a GPU between them."""
    return Machine(
        format="stepcast-machine-1",
        name="h100-node",
        description=(
            f"nodes of {_GPUS_PER_NODE} NVIDIA H100 SXM, a rank a GPU, NVLink and NDR InfiniBand; "
            "unmeasured by us: a datasheet, published NCCL figures and estimates; overlap_share "
            f"{_GPU_OVERLAP_SHARE} is assumed, for NCCL has its own stream but shares the "
            "multiprocessors"
        ),
        provenance={"built_by": "python -m calibration.presets"},
        compute=_h100_compute(),
        links={Tier.NODE: _nvlink(), Tier.NETWORK: _ndr()},
        overlap_share=_GPU_OVERLAP_SHARE,
    )


def _h100_compute() -> Compute:
    return Compute(
        source=(
            f"{published.H100_SOURCE}; assumed: {_ACHIEVED_FLOPS:.0%} of these flops and "
            f"{_ACHIEVED_BYTES:.0%} of these bytes are reached, and every array call costs "
            f"{_CALL_US:.1f} us, the geometric mean {published.LAUNCH_SOURCE}; a convolution or a "
            f"pooling is taken to be one call of a library; step overhead and noise are assumed"
        ),
        dtype="float32",
        cores_per_node=_GPUS_PER_NODE,
        memory_nbytes=_GPUS_PER_NODE * published.H100_MEMORY_NBYTES,
        cache_nbytes=(published.H100_L2_NBYTES, published.H100_MEMORY_NBYTES),
        kernels={kernel: _h100_kernel(kernel, _CALL_US * 1e-6) for kernel in Kernel},
        step_overhead_s=_GPU_STEP_OVERHEAD_S,
        busy_slowdown=1.0,
        noise_rel_sigma=_GPU_NOISE,
    )


# What the executor's kernels do: array calls, multiply-adds for each of the features that count
# them, and how often each of the other features' elements crosses the memory bus. A convolution
# or a pooling is taken to be one call of a library, that reads and writes each operand once.
_ARRAY_CALLS = {
    Kernel.LOAD: 6, Kernel.LINEAR: 2, Kernel.SIGMOID: 4, Kernel.LOSS: 12,
    Kernel.LINEAR_BACKWARD: 3, Kernel.LINEAR_BACKWARD_FIRST: 2, Kernel.SIGMOID_BACKWARD: 3,
    Kernel.CONV: 2, Kernel.CONV_BACKWARD: 3, Kernel.CONV_BACKWARD_FIRST: 2,
    Kernel.BATCHNORM_SUMS: 10, Kernel.BATCHNORM: 16,
    Kernel.BATCHNORM_BACKWARD_SUMS: 8, Kernel.BATCHNORM_BACKWARD: 8,
    Kernel.RELU: 1, Kernel.RELU_BACKWARD: 2, Kernel.ADD: 1, Kernel.ADD_BACKWARD: 1,
    Kernel.MAXPOOL: 1, Kernel.MAXPOOL_BACKWARD: 1, Kernel.AVGPOOL: 1, Kernel.AVGPOOL_BACKWARD: 1,
    Kernel.TRANSPOSE: 1, Kernel.TRANSPOSE_BACKWARD: 1,
    Kernel.UPDATE: 2, Kernel.ACCUMULATE: 1,
}  # fmt: skip
_PRODUCTS = {
    Kernel.LINEAR: 1, Kernel.LINEAR_BACKWARD: 2, Kernel.LINEAR_BACKWARD_FIRST: 1,
    Kernel.CONV: 1, Kernel.CONV_BACKWARD: 2, Kernel.CONV_BACKWARD_FIRST: 1,
}  # fmt: skip
_PRODUCT_FEATURES = {"nkm", "row_npkm", "patch_npkm"}
_MOVES = {
    Kernel.LOAD: {"nk": 2, "nm": 1, "n": 12, "nk_turned": 2},
    Kernel.LINEAR: {"nk": 1, "km": 1, "nm": 3},
    Kernel.SIGMOID: {"nm": 8},
    Kernel.LOSS: {"nm": 13},
    Kernel.LINEAR_BACKWARD: {"nk": 2, "km": 2, "nm": 3},
    Kernel.LINEAR_BACKWARD_FIRST: {"nk": 1, "km": 1, "nm": 2},
    Kernel.SIGMOID_BACKWARD: {"nm": 8},
    Kernel.CONV: {"nqc": 1, "km": 1, "npm": 3},
    Kernel.CONV_BACKWARD: {"nqc": 2, "km": 2, "npm": 3},
    Kernel.CONV_BACKWARD_FIRST: {"nqc": 1, "km": 1, "npm": 2},
    Kernel.BATCHNORM_SUMS: {"npm": 4},
    Kernel.BATCHNORM: {"npm": 6},
    Kernel.BATCHNORM_BACKWARD_SUMS: {"npm": 5},
    Kernel.BATCHNORM_BACKWARD: {"npm": 11},
    Kernel.RELU: {"nm": 2},
    Kernel.RELU_BACKWARD: {"nm": 4},
    Kernel.ADD: {"nm": 3},
    Kernel.ADD_BACKWARD: {"nm": 3},
    Kernel.MAXPOOL: {"nqm": 1, "npm": 1},
    Kernel.MAXPOOL_BACKWARD: {"nqm": 2, "npm": 2},
    Kernel.AVGPOOL: {"nqm": 1, "npm": 1, "whole_nqm": 1},
    Kernel.AVGPOOL_BACKWARD: {"nqm": 1, "npm": 1, "whole_nqm": 1},
    Kernel.TRANSPOSE: {"nm": 2},
    Kernel.TRANSPOSE_BACKWARD: {"nm": 2},
    Kernel.UPDATE: {"m": 5},
    Kernel.ACCUMULATE: {"m": 3},
}


def _h100_kernel(kernel: Kernel, call_s: float) -> KernelModel:
    """Return launches, plus flops at their rate, plus bytes at theirs: no overlap of the three.

    The ranges are empty, for nothing was measured, so all that is asked counts as extrapolated.
    """
    flop_s = 1.0 / (_ACHIEVED_FLOPS * published.H100_FLOPS_PER_S)
    move_s = _ITEMSIZE / (_ACHIEVED_BYTES * published.H100_BYTES_PER_S)
    coefficients_s = dict.fromkeys(features(kernel, Shape(1, 1, 1), 1, (1, 1)), 0.0)
    coefficients_s["fixed"] = _ARRAY_CALLS[kernel] * call_s
    for name in _PRODUCT_FEATURES & coefficients_s.keys():
        coefficients_s[name] = 2 * _PRODUCTS[kernel] * flop_s
    for name, moves in _MOVES[kernel].items():
        coefficients_s[name] = moves * move_s
    nothing = Range(low=0, high=0)
    return KernelModel(
        coefficients_s=coefficients_s,
        n=nothing, k=nothing, m=nothing, p=nothing, q=nothing, w=nothing,
        rel_sigma=_GPU_REL_SIGMA, num_samples=0,
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
    allreduce = fit_allreduce(_samples(total, Tier.NODE), total.source)
    return Link(
        message=_widened(message),
        allreduce=_widened(allreduce),
        allreduce_ranks=Range(low=total.ranks, high=total.ranks),
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
    )


def main() -> None:
    """Write every preset to ``calibration/machines``."""
    for machine in presets():
        path = MACHINES / f"{machine.name}.json"
        write_machine(machine, path)
        print(f"{machine.name}: {path}")


if __name__ == "__main__":
    main()
