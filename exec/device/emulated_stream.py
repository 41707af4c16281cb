"""Streams of the emulated device: they put what they are given into a queue."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.emulated_graph import Capture, EmulatedGraph
from exec.device.emulated_items import (
    CAPTURING,
    Await,
    EmulatedEvent,
    Pass,
    Run,
    check_not_capturing,
)
from exec.device.emulated_scheduler import SCHEDULER, Item, Queue
from exec.device.emulated_work import Work, copy_work, fill_work, kernel_work, product_work
from exec.device.protocol import Argument, Call, Event, Host

if TYPE_CHECKING:
    from exec.device.emulated import EmulatedDevice


class EmulatedStream:
    """An in-order queue of the emulated device."""

    def __init__(self, device: "EmulatedDevice") -> None:
        self._device = device
        self.queue = Queue(device.owner)
        self.capture_of: Capture | None = None

    @property
    def device(self) -> "EmulatedDevice":
        """Whose it is."""
        return self._device

    def enqueue(self, item: Item) -> None:
        """Give ``item`` to the queue, or note it down for a graph."""
        if self.capture_of is not None:
            self.capture_of.add(self.queue, item)
        else:
            SCHEDULER.put(self.queue, [item])

    def record(self, *, is_timed: bool = False) -> EmulatedEvent:
        """Return the point behind all that has been enqueued."""
        if self.capture_of is not None:
            return self.capture_of.record(self.queue)
        event = EmulatedEvent(self.queue, is_timed=is_timed)
        SCHEDULER.put(self.queue, [Pass(event)])
        return event

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for ``event``.

        Raises:
            RuntimeError: the event, or the stream, is of a capture and the other is not.
        """
        assert isinstance(event, EmulatedEvent)
        capture = event.capture
        if capture is None and self.capture_of is None:
            SCHEDULER.put(self.queue, [Await(event)])
            return
        if capture is None:
            raise RuntimeError("a capture must not wait for an event from before it")
        if not capture.streams:
            raise RuntimeError("a stream must not wait for an event of a capture that has ended")
        if self.capture_of is None:
            capture.join(self)
        if self.capture_of is not capture:
            raise RuntimeError("a capture must not wait for an event of another one")
        capture.wait(self.queue, event)

    def synchronize(self) -> None:
        """Return when all that has been enqueued is done."""
        check_not_capturing("synchronize a stream")
        queue = self.queue
        SCHEDULER.wait(queue.owner, lambda: not queue.items, lambda: [queue])

    def bind_kernel(
        self, name: str, dtype: DTypeLike, grid: Sequence[int], block: Sequence[int], *arguments: Argument
    ) -> Call:  # fmt: skip
        """Return a call that enqueues the kernel ``name`` of the device's sources."""
        source = self._device.kernels[name]
        return self._bind(
            kernel_work(source, name, dtype, grid, block, arguments, self._device.draw_seed)
        )

    def bind_product(
        self, a: DeviceArray, b: DeviceArray, c: DeviceArray, *, alpha: float = 1.0, beta: float = 0.0,
        leading: tuple[int, int, int] | None = None,
    ) -> Call:  # fmt: skip
        """Return a call that enqueues ``c = alpha a b + beta c``."""
        is_tf32 = self._device.is_tf32
        return self._bind(product_work(a, b, c, alpha, beta, leading, is_tf32=is_tf32))

    def bind_copy(self, source: DeviceArray | Host, target: DeviceArray | Host) -> Call:
        """Return a call that enqueues a copy."""
        return self._bind(copy_work(source, target))

    def bind_fill(self, array: DeviceArray, value: float) -> Call:
        """Return a call that enqueues the filling of ``array``."""
        return self._bind(fill_work(array, value))

    def capture(self, body: Call) -> EmulatedGraph:
        """Return all that ``body`` enqueues, undone.

        Raises:
            RuntimeError: a stream that joined was not waited for, or another capture is under way.
        """
        check_not_capturing("begin another one")
        if self.capture_of is not None:
            raise RuntimeError("stream must not be captured already")
        capture = Capture()
        capture.join(self)
        CAPTURING.add(threading.get_ident())
        try:
            body()
        finally:
            CAPTURING.discard(threading.get_ident())
            capture.release()
        capture.check_joined(self.queue)
        return EmulatedGraph(self.queue, capture.branches)

    def _bind(self, work: Work) -> Call:
        item = Run(work)
        return lambda: self.enqueue(item)
