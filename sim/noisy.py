"""A Machine whose ranks' steps differ as one says, not as was measured."""

from calibration.machine import Machine
from exec.errors import MachineError
from exec.noise import parse_noise


def with_noise(machine: Machine, noise: str) -> Machine:
    """Return ``machine`` with ``noise`` as :func:`exec.noise.parse_noise` reads it.

    Raises:
        UsageError: it is not spelt so.
        MachineError: the machine says nothing of compute, so nothing can differ.
    """
    parsed = parse_noise(noise)
    if machine.compute is None:
        raise MachineError(f"machine {machine.name} says nothing of compute; combine it with one that does, such as local+{machine.name}")  # fmt: skip
    return machine.model_copy(update={"compute": machine.compute.with_noise(parsed)})
