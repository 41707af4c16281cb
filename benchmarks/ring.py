"""The case: one ring all-reduce of 40 MB over 1 Gbit/s and 50 us, and its exact time."""

from calibration.features import features
from calibration.machine import Compute as ComputeSection
from calibration.machine import Curve, KernelModel, Link, Machine, Range, Segment, Tier
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Collective, CollectiveKind, Kernel, Shape
from exec.program.peers import Part
from exec.program.program import Program, Role

NBYTES, ALPHA_S, BYTES_PER_S = 40_000_000, 50e-6, 125e6


def exact_s(ranks: int) -> float:
    """Return ``2 (p - 1) (alpha + beta n / p)``; see :mod:`sim.collectives` for its source."""
    return 2 * (ranks - 1) * (ALPHA_S + NBYTES / ranks / BYTES_PER_S)


def num_messages(ranks: int) -> int:
    """Return how many messages the ring sends: each rank one in each of 2 (p - 1) steps."""
    return 2 * (ranks - 1) * ranks


def ring_program(ranks: int) -> Program:
    """Return one ring all-reduce of the buffer, in single bytes so that 256 ranks share it evenly."""
    part = Part("grad", 0, NBYTES)
    op = Collective("sum", CollectiveKind.ALLREDUCE, part, Axis.DP, Algorithm.RING)
    return Program(Mesh(dp=ranks), 1, (Role("all", range(ranks), range(1), range(1), (op,)),))


def flat_machine() -> Machine:
    """Return nodes on one switch, sums free, every other kernel a microsecond."""
    segment = Segment(up_to_nbytes=1e9, alpha_s=ALPHA_S, beta_s_per_byte=1 / BYTES_PER_S)
    every = Range(low=0, high=1e9)
    curve = Curve(segments=(segment,), nbytes=every, rel_sigma=0, source="assumed")
    kernels = {
        kernel: KernelModel(
            coefficients_s=dict.fromkeys(features(kernel, Shape(1, 1, 1), 1, (1, 1)), 0.0)
            | {"fixed": 0.0 if kernel is Kernel.ACCUMULATE else 1e-6},
            n=every, k=every, m=every, rel_sigma=0, num_samples=0,
        )
        for kernel in Kernel
    }  # fmt: skip
    compute = ComputeSection(
        source="assumed", dtype="float32", cores_per_node=1, memory_nbytes=1 << 34,
        cache_nbytes=(1 << 20, 1 << 25), kernels=kernels, step_overhead_s=0, busy_slowdown=1,
        noise_rel_sigma=0,
    )  # fmt: skip
    link = Link(message=curve, allreduce=curve, allreduce_ranks=every)
    return Machine(
        format="stepcast-machine-1", name="flat", description="1 Gbit/s, 50 us a message",
        provenance={}, compute=compute, links={Tier.NETWORK: link},
    )  # fmt: skip
