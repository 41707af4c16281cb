"""A ring of chunks: samples that do not all fit into device memory, uploaded ahead of their use.

Place p of an epoch's order is always at row p % ``num_rows``. A stream of its own copies chunks from
two pinned buffers; a chunk is overwritten once the turns that read it are done, and read once it
has arrived, which events see to. The host waits only when both buffers are still being copied.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exec.device.array import DeviceArray
from exec.device.protocol import Event, Host, Stream
from exec.errors import UsageError

MAX_CHUNK_NBYTES = 64 << 20
MIN_CHUNKS = 8

Indices = NDArray[np.int64]


@dataclass(slots=True)
class _Slot:
    """The room of a chunk: which one, when it is there, and when its last reader is done."""

    chunk: int | None = None
    arrived: Event | None = None
    left: Event | None = None


@dataclass(slots=True)
class _Buffer:
    """A chunk's way to the device: pinned memory, and when it was last copied."""

    images: Host
    labels: Host
    copied: Event | None = None


@dataclass(slots=True)
class Ring:
    """``source`` (num, features) and ``source_labels`` (num,), of which a part is on the device.

    ``stream`` is that of the readers; ``num_rows`` samples fit into ``room_nbytes``.

    Raises:
        UsageError: there is no room for two samples.
    """

    stream: Stream
    source: Host
    source_labels: Host
    room_nbytes: int
    images: DeviceArray = field(init=False)
    labels: DeviceArray = field(init=False)
    _copier: Stream = field(init=False)
    _chunk_rows: int = field(init=False)
    _slots: list[_Slot] = field(init=False)
    _buffers: list[_Buffer] = field(init=False)
    _order: Indices = field(init=False)
    _reading: range = field(init=False)

    def __post_init__(self) -> None:
        device, features = self.stream.device, self.source.shape[1]
        row_nbytes = features * self.source.itemsize + self.source_labels.itemsize
        rows = self.room_nbytes // row_nbytes
        if rows < 2:
            raise UsageError(
                f"room on the device must hold 2 samples of {row_nbytes} bytes, "
                f"got {self.room_nbytes} bytes; free some of its memory"
            )
        self._chunk_rows = max(1, min(rows // MIN_CHUNKS, MAX_CHUNK_NBYTES // row_nbytes))
        self._slots = [_Slot() for _ in range(rows // self._chunk_rows)]
        images, labels = self.source.dtype, self.source_labels.dtype
        self.images = device.empty(self.num_rows * features, images).reshape(-1, features)
        self.labels = device.empty(self.num_rows, labels)
        self._copier = device.stream()
        self._buffers = [
            _Buffer(
                device.pinned(self._chunk_rows * features, images).reshape(-1, features),
                device.pinned(self._chunk_rows, labels),
            )
            for _ in range(2)
        ]
        self._order, self._reading = np.empty(0, np.int64), range(0)

    @property
    def num_rows(self) -> int:
        """How many samples are on the device."""
        return len(self._slots) * self._chunk_rows

    @property
    def max_turn(self) -> int:
        """How many samples a turn may take, wherever it starts."""
        return (len(self._slots) - 1) * self._chunk_rows + 1

    def restart(self, order: Indices) -> None:
        """Forget what is there: the next turns take samples in another ``order``."""
        self._leave(range(0))
        self._order = order
        for slot in self._slots:
            slot.chunk = None

    def fetch(self, start: int, stop: int) -> None:
        """Let what is enqueued next find the places from ``start`` to ``stop``; start on the chunk after.

        Raises:
            UsageError: they do not fit.
        """
        rows, slots = self._chunk_rows, len(self._slots)
        chunks = range(start // rows, -(-stop // rows)) if start < stop else range(0)
        if len(chunks) > slots:
            raise UsageError(
                f"a turn's samples must be at most {self.max_turn}, which fit into the device's "
                f"memory, got {stop - start}; take a smaller batch"
            )
        self._leave(chunks)
        for chunk in chunks:
            slot = self._slots[chunk % slots]
            self._load(chunk, slot)
            if slot.arrived is not None:
                self.stream.wait(slot.arrived)
                slot.arrived = None
        self._reading = chunks
        if 0 < len(chunks) < slots and chunks.stop * rows < len(self._order):
            self._load(chunks.stop, self._slots[chunks.stop % slots])

    def _leave(self, chunks: range) -> None:
        """Note that what was enqueued last is the last to read the chunks that are not in ``chunks``."""
        gone = [chunk for chunk in self._reading if chunk not in chunks]
        if gone:
            left = self.stream.record()
            for chunk in gone:
                self._slots[chunk % len(self._slots)].left = left
        self._reading = range(0)

    def _load(self, chunk: int, slot: _Slot) -> None:
        """Start to copy ``chunk`` into ``slot``, if it is not there."""
        if slot.chunk == chunk:
            return
        samples = self._order[chunk * self._chunk_rows : (chunk + 1) * self._chunk_rows]
        count, row = len(samples), chunk % len(self._slots) * self._chunk_rows
        buffer = self._buffers[0]
        self._buffers.reverse()
        if buffer.copied is not None:
            buffer.copied.synchronize()
        self.source.take(samples, axis=0, out=buffer.images[:count], mode="clip")
        self.source_labels.take(samples, out=buffer.labels[:count], mode="clip")
        if slot.left is not None:
            self._copier.wait(slot.left)
            slot.left = None
        self._copier.bind_copy(buffer.images[:count], self.images[row : row + count])()
        self._copier.bind_copy(buffer.labels[:count], self.labels[row : row + count])()
        slot.chunk, slot.arrived = chunk, self._copier.record()
        buffer.copied = slot.arrived
