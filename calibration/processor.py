"""The processor: what the features of a kernel need to know of the chip that runs it."""

from dataclasses import dataclass

from exec.device.kind import DeviceKind


@dataclass(frozen=True, slots=True)
class Processor:
    """A kind of device; ``num_multiprocessors`` blocks of a GPU's kernel run at once, at least."""

    device: DeviceKind = DeviceKind.CPU
    num_multiprocessors: int = 1


CPU = Processor()
