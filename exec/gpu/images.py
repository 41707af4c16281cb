"""Images in device memory, in one of two orders."""

from dataclasses import dataclass
from enum import StrEnum

from exec.device.array import DeviceArray


class Order(StrEnum):
    """Which axis is the innermost.

    Channels last is what libraries of convolutions are fastest with; with samples last a rank's
    share of the channels is one contiguous block, as it is on the CPU.
    """

    SAMPLES_LAST = "chwn"
    CHANNELS_LAST = "nhwc"


@dataclass(frozen=True, slots=True)
class Images:
    """``array`` holds ``samples`` images of ``channels`` x ``height`` x ``width``, in ``order``."""

    array: DeviceArray
    channels: int
    height: int
    width: int
    samples: int
    order: Order

    def __post_init__(self) -> None:
        size = self.channels * self.height * self.width * self.samples
        if self.array.size != size:
            raise ValueError(f"images must have {size} elements, got {self.array.size}")

    @property
    def pixels(self) -> int:
        """The positions of an image."""
        return self.height * self.width

    @property
    def inner(self) -> int:
        """How many elements of one channel lie side by side."""
        return 1 if self.order is Order.CHANNELS_LAST else self.pixels * self.samples
