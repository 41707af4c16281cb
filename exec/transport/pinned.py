"""A pool of pinned host memory: what lies between a device and a wire that cannot reach it."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Event, Host

_LEAST_BITS = 12  # 4 KiB: smaller ones are not worth a class of their own


@dataclass(slots=True)
class PinnedPool:
    """Buffers of ``device``, kept by size class: pinning takes long, so none is given back."""

    device: Device
    _free: dict[int, deque[tuple[Host, Event | None]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def take(self, nbytes: int) -> Host:
        """Return at least ``nbytes`` bytes that nothing uses: a power of two."""
        bits = max(_LEAST_BITS, (nbytes - 1).bit_length())
        free = self._free[bits]
        if free and (free[0][1] is None or free[0][1].is_done()):
            return free.popleft()[0]
        return self.device.pinned(1 << bits, np.uint8)

    def give(self, buffer: Host, until: Event | None = None) -> None:
        """Take ``buffer`` back; what is on a stream uses it up to ``until``."""
        self._free[buffer.nbytes.bit_length() - 1].append((buffer, until))


def seen_as(buffer: Host, array: DeviceArray) -> Host:
    """Return the start of ``buffer`` as numbers like those of ``array``."""
    return buffer[: array.nbytes].view(array.dtype)
