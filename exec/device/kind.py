"""What computes: the cores of a CPU, a GPU, or a GPU emulated on the CPU."""

from enum import StrEnum


class DeviceKind(StrEnum):
    """Where the network's arrays are, and what computes on them."""

    CPU = "cpu"
    GPU = "gpu"
    EMULATED = "emulated"

    @property
    def has_streams(self) -> bool:
        """Whether work is put into streams, as on a GPU."""
        return self is not DeviceKind.CPU
