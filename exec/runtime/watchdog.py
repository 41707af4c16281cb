"""A watchdog: no rank waits for ever on its device for another that has failed.

NCCL has no timeouts: a rank whose peer is gone waits in a stream, and its host with it. So a thread
looks at the groups of devices and at the control plane now and then. If something has failed it
ends what is under way on the device, and the job.
"""

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from exec.errors import TransportError
from exec.transport.device_transport import DeviceTransport

INTERVAL_S = 0.5
_FAILED_STATUS = 1


@dataclass(slots=True)
class Watchdog(AbstractContextManager["Watchdog"]):
    """Watches over ``transport`` from its entry to its exit, which must be before the close."""

    transport: DeviceTransport
    interval_s: float = INTERVAL_S
    _is_over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to watch."""
        name = f"watchdog of rank {self.transport.rank}"
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        """Watch no more."""
        self._is_over.set()
        assert self._thread is not None
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(self.interval_s):
            try:
                self.transport.check()
            except Exception as error:  # noqa: BLE001  # whatever has failed, nobody may wait for ever
                self._end(error)
                return

    def _end(self, error: Exception) -> None:
        """End what is under way here, and the job; where ranks are threads, abort raises."""
        rank, size = self.transport.rank, self.transport.size
        self.transport.stop()
        try:
            self.transport.abort(f"error: rank {rank} of {size} failed: {error}", _FAILED_STATUS)
        except TransportError:
            return  # the threads that wait raise it too
