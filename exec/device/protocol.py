"""What an accelerator offers: memory, in-order streams, events, kernels, products and graphs.

What a stream is given is done later, in order; the host goes on. Only ``synchronize``, ``read``,
``upload`` and the making of arrays hold the host. Two streams are ordered by events and by nothing
else. Methods called ``bind_`` prepare once what is then enqueued again and again: they return a call
that enqueues, allocates nothing and can be captured in a graph.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exec.device.array import DeviceArray

if TYPE_CHECKING:
    from exec.device.convolutions import Convolutions
    from exec.device.group import Group

Call = Callable[[], object]
Argument = DeviceArray | int | float | None
Host = NDArray[Any]


class Event(Protocol):
    """A point in a stream."""

    def is_done(self) -> bool:
        """Say whether the stream has come past it."""
        ...

    def synchronize(self) -> None:
        """Return when it has."""
        ...


class Stream(Protocol):
    """An in-order queue of a device."""

    @property
    def device(self) -> "Device":
        """Whose it is."""
        ...

    def record(self, *, is_timed: bool = False) -> Event:
        """Return the point behind all that has been enqueued; ``is_timed`` notes when it is passed."""
        ...

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for ``event``; the host goes on."""
        ...

    def synchronize(self) -> None:
        """Return when all that has been enqueued is done."""
        ...

    def bind_kernel(
        self, name: str, dtype: DTypeLike, grid: Sequence[int], block: Sequence[int], *arguments: Argument
    ) -> Call:  # fmt: skip
        """Return a call that enqueues the kernel ``name`` of the device's sources.

        It is compiled with ``real`` being ``dtype``. Arrays are passed as pointers (None is the null
        pointer), whole numbers as ``int``, others as ``real``. A grid without blocks does nothing.

        Raises:
            ValueError: a whole number does not fit into 32 bits.
        """
        ...

    def bind_product(
        self, a: DeviceArray, b: DeviceArray, c: DeviceArray, *, alpha: float = 1.0, beta: float = 0.0,
        leading: tuple[int, int, int] | None = None,
    ) -> Call:  # fmt: skip
        """Return a call that enqueues ``c = alpha a b + beta c`` of matrices; ``c`` has rows.

        ``leading`` are the distances in elements between the rows (transposed: columns) of ``a``,
        ``b`` and ``c``, if they are not those of whole matrices.
        """
        ...

    def bind_copy(self, source: DeviceArray | Host, target: DeviceArray | Host) -> Call:
        """Return a call that enqueues a copy; what is on the host must be ``pinned``."""
        ...

    def bind_fill(self, array: DeviceArray, value: float) -> Call:
        """Return a call that enqueues the filling of ``array``."""
        ...

    def capture(self, body: Call) -> "Graph":
        """Return all that ``body`` enqueues, here and on streams that wait for this one, undone.

        Those streams must have been waited for by this one before ``body`` ends.
        """
        ...


class Graph(Protocol):
    """Work that is enqueued as a whole."""

    def launch(self, stream: Stream) -> None:
        """Enqueue it."""
        ...


class Device(Protocol):
    """An accelerator, seen by one rank."""

    @property
    def name(self) -> str:
        """What it is called, such as NVIDIA H100 80GB HBM3."""
        ...

    @property
    def address(self) -> str:
        """What tells it from all others of its node: its PCI bus id."""
        ...

    @property
    def num_multiprocessors(self) -> int:
        """How many blocks can run at once, at least."""
        ...

    @property
    def is_tf32(self) -> bool:
        """Whether products of float32 round their factors to TF32's 10 bits."""
        ...

    @property
    def software(self) -> dict[str, str]:
        """The versions on which times depend: driver, libraries."""
        ...

    @property
    def convolutions(self) -> "Convolutions | None":
        """A library's convolutions; None where there is none."""
        ...

    def memory(self) -> tuple[int, int]:
        """Return the bytes of memory that are free, and all."""
        ...

    def stream(self) -> Stream:
        """Return a new stream, ordered with no other."""
        ...

    def empty(self, size: int, dtype: DTypeLike) -> DeviceArray:
        """Return ``size`` elements of whatever was there."""
        ...

    def upload(self, host: Host) -> DeviceArray:
        """Return a copy of ``host``, of its shape, that any stream may use at once."""
        ...

    def write(self, array: DeviceArray, host: Host) -> None:
        """Set ``array`` to ``host`` once all streams are done; any stream may use it at once."""
        ...

    def read(self, array: DeviceArray) -> Host:
        """Return a copy of ``array`` once all streams are done."""
        ...

    def pinned(self, size: int, dtype: DTypeLike) -> Host:
        """Return host memory that streams can copy from and to."""
        ...

    def elapsed_s(self, start: Event, end: Event) -> float:
        """Return the time between two timed events that are done."""
        ...

    def synchronize(self) -> None:
        """Return when all streams are done."""
        ...

    def new_group_id(self) -> bytes:
        """Return what names a new group of ranks: one rank makes it and tells the others.

        Raises:
            DeviceError: the library that groups need is missing.
        """
        ...

    def join_group(self, id: bytes, rank: int, size: int) -> "Group":
        """Return the group ``id``, of ``size`` ranks on as many devices, of which this is ``rank``.

        Returns when all have called it.

        Raises:
            DeviceError: the library that groups need is missing, or refuses.
        """
        ...

    def close(self) -> None:
        """Give back what it holds; arrays of it must not be used any more."""
        ...


def zeros(device: Device, size: int, dtype: DTypeLike) -> DeviceArray:
    """Return ``size`` zeros."""
    return device.upload(np.zeros(size, dtype))
