"""The Machine under a profile: layers take what they took, and a step nothing else but messages.

A profile was measured on the device that it is of, and holds all that a step does there. So loading,
the loss and the update take no time of their own; sums of received gradients do, where the machine
was calibrated for them.
"""

from calibration.features import features
from calibration.machine import Compute, KernelModel, Machine, Range
from exec.device.kind import DeviceKind
from exec.program.ops import Kernel, Shape

_PICOSECOND_S = 1e-12
_ANY = Range(low=0, high=1e30)
_PASSES = {Kernel.LINEAR: "nm", Kernel.LINEAR_BACKWARD: "nk"}
"""Which feature of a shape holds the picoseconds (:func:`exec.workload.profiled_shape`)."""
UNKNOWN_MEMORY = 1 << 62
PROFILE_SIGMA = 0.03
"""Assumed: what a profile measured once would differ by, measured again."""


def profiled_machine(machine: Machine, ranks_per_node: int) -> Machine:
    """Return ``machine`` for profiled layers; each of ``ranks_per_node`` has a device of its own."""
    own = machine.compute
    kernels = {kernel: _model(kernel, _PASSES.get(kernel)) for kernel in Kernel}
    if own is not None and not own.device.has_streams and Kernel.ACCUMULATE in own.kernels:
        kernels[Kernel.ACCUMULATE] = own.kernels[Kernel.ACCUMULATE]
    compute = Compute(
        device=DeviceKind.CPU,
        source="the profile",
        dtype="float32",
        cores_per_node=ranks_per_node,
        memory_nbytes=UNKNOWN_MEMORY,
        cache_nbytes=(1, 1),
        kernels=kernels,
        step_overhead_s=0.0,
        busy_slowdown=1.0,
        noise_rel_sigma=own.noise_rel_sigma if own is not None else 0.0,
    )
    return machine.model_copy(update={"compute": compute})


def _model(kernel: Kernel, feature: str | None) -> KernelModel:
    """Return the model that takes the picoseconds in ``feature``, or nothing."""
    known = features(kernel, Shape(1, 1, 1), 1, (1, 1))
    return KernelModel(
        coefficients_s={name: _PICOSECOND_S * (name == feature) for name in known},
        n=_ANY, k=_ANY, m=_ANY, p=_ANY, q=_ANY, w=_ANY,
        rel_sigma=PROFILE_SIGMA if feature else 0.0, num_samples=0,
    )  # fmt: skip
