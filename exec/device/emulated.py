"""A GPU emulated on the CPU: the same kernels, streams and events, with nothing but a C++ compiler."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.convolutions import Convolutions
from exec.device.emulated_kernels import find_compiler, kernels_of, sources_of
from exec.device.emulated_memory import allocate, allocate_pinned, view
from exec.device.emulated_work import Work, copy_work, fill_work, kernel_work, product_work
from exec.device.protocol import Argument, Call, Event, Graph, Host, Stream


def open_emulated(
    sources: Path | Sequence[Path], *, index: int = 0, is_tf32: bool = False, seed: int = 0
) -> "EmulatedDevice":
    """Return a device with the kernels of a folder, or of .cu files.

    ``seed`` permutes what is not ordered; 0 is the order in which it was given.

    Raises:
        DeviceError: there is no C++ compiler.
    """
    find_compiler()
    return EmulatedDevice(sources_of(sources), index, is_tf32=is_tf32, seed=seed)


class EmulatedEvent:
    """A point in a stream."""

    def __init__(self) -> None:
        self.passed_s = time.perf_counter()

    def is_done(self) -> bool:
        """Say whether the stream has come past it."""
        return True

    def synchronize(self) -> None:
        """Return when it has."""


class EmulatedGraph:
    """Work that is enqueued as a whole."""

    def __init__(self, works: Sequence[Work]) -> None:
        self._works = tuple(works)

    def launch(self, stream: Stream) -> None:
        """Enqueue it."""
        assert isinstance(stream, EmulatedStream)
        for work in self._works:
            stream.enqueue(work)


class EmulatedStream:
    """A queue that does everything at once."""

    def __init__(self, device: "EmulatedDevice") -> None:
        self._device = device

    @property
    def device(self) -> "EmulatedDevice":
        """Whose it is."""
        return self._device

    def enqueue(self, work: Work) -> None:
        """Do ``work``, or note it down for a graph."""
        if self._device.captured is not None:
            self._device.captured.append(work)
        else:
            work()

    def record(self, *, is_timed: bool = False) -> Event:  # noqa: ARG002  # all are
        """Return the point behind all that has been enqueued."""
        return EmulatedEvent()

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for ``event``."""

    def synchronize(self) -> None:
        """Return when all that has been enqueued is done."""

    def bind_kernel(
        self, name: str, dtype: DTypeLike, grid: Sequence[int], block: Sequence[int], *arguments: Argument
    ) -> Call:  # fmt: skip
        """Return a call that enqueues the kernel ``name`` of the device's sources."""
        source = self._device.kernels[name]
        work = kernel_work(source, name, dtype, grid, block, arguments, self._device.draw_seed)
        return lambda: self.enqueue(work)

    def bind_product(
        self, a: DeviceArray, b: DeviceArray, c: DeviceArray, *, alpha: float = 1.0, beta: float = 0.0,
        leading: tuple[int, int, int] | None = None,
    ) -> Call:  # fmt: skip
        """Return a call that enqueues ``c = alpha a b + beta c``."""
        work = product_work(a, b, c, alpha, beta, leading, is_tf32=self._device.is_tf32)
        return lambda: self.enqueue(work)

    def bind_copy(self, source: DeviceArray | Host, target: DeviceArray | Host) -> Call:
        """Return a call that enqueues a copy."""
        work = copy_work(source, target)
        return lambda: self.enqueue(work)

    def bind_fill(self, array: DeviceArray, value: float) -> Call:
        """Return a call that enqueues the filling of ``array``."""
        work = fill_work(array, value)
        return lambda: self.enqueue(work)

    def capture(self, body: Call) -> Graph:
        """Return all that ``body`` enqueues, undone."""
        works: list[Work] = []
        self._device.captured = works
        try:
            body()
        finally:
            self._device.captured = None
        return EmulatedGraph(works)


class EmulatedDevice:
    """A GPU emulated on the CPU, seen by one rank."""

    def __init__(self, sources: Sequence[Path], index: int, *, is_tf32: bool, seed: int) -> None:
        self.kernels = kernels_of(sources)
        self.captured: list[Work] | None = None
        self._index = index
        self._is_tf32 = is_tf32
        self._seeds = random.Random(seed) if seed else None  # noqa: S311  # an order, not a secret

    @property
    def name(self) -> str:
        """What it is called."""
        return "emulated GPU"

    @property
    def address(self) -> str:
        """What tells it from all others of its node."""
        return f"emulated-{self._index}"

    @property
    def num_multiprocessors(self) -> int:
        """How many blocks can run at once, at least."""
        return 4

    @property
    def is_tf32(self) -> bool:
        """Whether products of float32 round their factors to TF32's 10 bits."""
        return self._is_tf32

    @property
    def software(self) -> dict[str, str]:
        """The compiler."""
        return {"compiler": find_compiler()[1]}

    @property
    def convolutions(self) -> Convolutions | None:
        """None: columns and a matrix product do them."""
        return None

    def draw_seed(self) -> int:
        """Return the order of the next kernel's threads; 0 is ascending."""
        return 0 if self._seeds is None else self._seeds.randrange(1, 2**31)

    def memory(self) -> tuple[int, int]:
        """Return the bytes of memory that are free, and all: the host's."""
        now = psutil.virtual_memory()
        return now.available, now.total

    def stream(self) -> EmulatedStream:
        """Return a new stream."""
        return EmulatedStream(self)

    def empty(self, size: int, dtype: DTypeLike) -> DeviceArray:
        """Return ``size`` elements that are not numbers."""
        return allocate(size, dtype)

    def upload(self, host: Host) -> DeviceArray:
        """Return a copy of ``host``, of its shape."""
        array = allocate(host.size, host.dtype).reshape(*host.shape)
        view(array)[...] = host
        return array

    def write(self, array: DeviceArray, host: Host) -> None:
        """Set ``array`` to ``host`` once all streams are done."""
        self.synchronize()
        view(array)[...] = host

    def read(self, array: DeviceArray) -> Host:
        """Return a copy of ``array`` once all streams are done."""
        self.synchronize()
        return view(array).copy()

    def pinned(self, size: int, dtype: DTypeLike) -> Host:
        """Return host memory that streams can copy from and to."""
        return allocate_pinned(size, dtype)

    def elapsed_s(self, start: Event, end: Event) -> float:
        """Return the time between two events."""
        assert isinstance(start, EmulatedEvent)
        assert isinstance(end, EmulatedEvent)
        return end.passed_s - start.passed_s

    def synchronize(self) -> None:
        """Return when all streams are done."""

    def close(self) -> None:
        """Give back what it holds."""
