"""Where batches come from: the samples on the device, or those of them that fit there.

The device itself counts how far it has come, so that a turn can be enqueued again without a word
from the host: its kernels gather the samples ``order[position + ...]``, and its last one moves
``position`` on (``loading.py``).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Event, Host, Stream, zeros
from exec.errors import UsageError
from exec.gpu.ring import Ring

Integers = NDArray[np.integer]


@dataclass(slots=True)
class _OrderBuffer:
    """Pinned memory for an order on its way to the device, and when it was last copied."""

    order: Host
    copied: Event | None = None


@dataclass(slots=True)
class DeviceFeed:
    """The samples ``host_images``, (num, features), and ``host_labels``, (num,), for one stream.

    If they fit into ``room_nbytes`` they are all on the device, else in a ring. ``images``,
    ``labels``, ``order`` and ``position``, of one element, keep their places.

    Raises:
        UsageError: there is no room for two samples.
    """

    device: Device
    stream: Stream
    host_images: Host
    host_labels: Integers
    room_nbytes: int
    images: DeviceArray = field(init=False)
    labels: DeviceArray = field(init=False)
    order: DeviceArray = field(init=False)
    position: DeviceArray = field(init=False)
    _ring: Ring | None = field(init=False, default=None)
    _buffers: list[_OrderBuffer] = field(init=False, default_factory=list)
    _place: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        device, num = self.device, len(self.host_labels)
        labels = self.host_labels.astype(np.int32)
        self.position = zeros(device, 1, np.int32)
        if self.host_images.nbytes + labels.nbytes <= self.room_nbytes:
            self.images, self.labels = device.upload(self.host_images), device.upload(labels)
            self.order = device.upload(np.arange(num, dtype=np.int32))
            self._buffers = [_OrderBuffer(device.pinned(num, np.int32)) for _ in range(2)]
            return
        ring = Ring(self.stream, self.host_images, labels, self.room_nbytes)
        self._ring = ring
        self.images, self.labels = ring.images, ring.labels
        self.order = device.upload(np.arange(num, dtype=np.int32) % np.int32(ring.num_rows))

    @property
    def is_resident(self) -> bool:
        """Whether all samples are on the device."""
        return self._ring is None

    @property
    def max_turn(self) -> int:
        """How many samples a turn may take."""
        return len(self.host_labels) if self._ring is None else self._ring.max_turn

    def begin(self, order: Integers) -> None:
        """Let the turns from now on take samples in ``order``, indices into all of them.

        Raises:
            UsageError: there are more than there are samples.
        """
        num = len(self.host_labels)
        if len(order) > num:
            raise UsageError(f"order must have at most {num} samples, got {len(order)}")
        if self._ring is not None:
            self._ring.restart(order.astype(np.int64))
            return
        buffer = self._buffers[0]
        self._buffers.reverse()
        if buffer.copied is not None:
            buffer.copied.synchronize()
        buffer.order[: len(order)] = order
        self.stream.bind_copy(buffer.order[: len(order)], self.order[: len(order)])()
        buffer.copied = self.stream.record()

    def take(self, start: int, stop: int) -> None:
        """Prepare for a turn of the places from ``start`` to ``stop`` of the order.

        The turn, enqueued next on the stream, ends with moving ``position`` on to ``stop``.

        Raises:
            UsageError: they do not fit into the room.
        """
        if self._ring is not None:
            self._ring.fetch(start, stop)
        if self._place != start:
            self.stream.bind_fill(self.position, start)()
        self._place = stop
