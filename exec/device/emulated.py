"""A GPU emulated on the CPU: the same kernels, streams and events, with nothing but a C++ compiler."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.convolutions import Convolutions
from exec.device.emulated_batch import Part
from exec.device.emulated_group import EmulatedGroup, join_group, new_group_id
from exec.device.emulated_items import EmulatedEvent, check_not_capturing
from exec.device.emulated_kernels import find_compiler, kernels_of, sources_of
from exec.device.emulated_memory import allocate, allocate_pinned, view, wrap
from exec.device.emulated_scheduler import SCHEDULER, Owner
from exec.device.emulated_stream import EmulatedStream
from exec.device.protocol import Call, Event, Host, Stream
from exec.errors import DeviceError


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


class EmulatedDevice:
    """A GPU emulated on the CPU, seen by one rank."""

    def __init__(self, sources: Sequence[Path], index: int, *, is_tf32: bool, seed: int) -> None:
        self.kernels = kernels_of(sources)
        # It says what to do next, and in which order a kernel's threads run.
        chance = random.Random(seed) if seed else None  # noqa: S311  # an order, not a secret
        self.owner = Owner(f"emulated-{index}", chance)
        self.together: list[tuple[EmulatedGroup, Part, Stream]] | None = None
        self._is_tf32 = is_tf32

    @property
    def name(self) -> str:
        """What it is called."""
        return "emulated GPU"

    @property
    def address(self) -> str:
        """What tells it from all others of its node."""
        return self.owner.name

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
        return 0 if self.owner.chance is None else self.owner.chance.randrange(1, 2**31)

    def memory(self) -> tuple[int, int]:
        """Return the bytes of memory that are free, and all: the host's."""
        now = psutil.virtual_memory()
        return now.available, now.total

    def stream(self) -> EmulatedStream:
        """Return a new stream."""
        return EmulatedStream(self)

    def empty(self, size: int, dtype: DTypeLike) -> DeviceArray:
        """Return ``size`` elements that are not numbers.

        Raises:
            DeviceError: there is not so much memory.
        """
        check_not_capturing("make an array")
        self.owner.check()
        nbytes, (free, _) = size * np.dtype(dtype).itemsize, self.memory()
        if nbytes > free:
            raise DeviceError(f"memory must hold {nbytes} bytes more, got {free} free")
        return allocate(size, dtype)

    def upload(self, host: Host) -> DeviceArray:
        """Return a copy of ``host``, of its shape."""
        array = self.empty(host.size, host.dtype).reshape(host.shape)
        view(array)[...] = host
        return array

    def wrap(self, host: Host) -> DeviceArray:
        """Return ``host``, such as memory that processes share, as an array: the same memory."""
        return wrap(host)

    def write(self, array: DeviceArray, host: Host) -> None:
        """Set ``array`` to ``host`` once all streams are done."""
        if array.shape != host.shape or array.dtype != host.dtype:
            raise ValueError(
                f"host must be {array.shape} of {array.dtype}, got {host.shape} of {host.dtype}"
            )
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
        """Return the time between two timed events that are done.

        Raises:
            RuntimeError: one is not timed, or not done.
        """
        assert isinstance(start, EmulatedEvent)
        assert isinstance(end, EmulatedEvent)
        for event in (start, end):
            if not (event.is_timed and event.is_passed):
                raise RuntimeError("events must be timed and done")
        return end.passed_s - start.passed_s

    def synchronize(self) -> None:
        """Return when all streams are done."""
        check_not_capturing("synchronize the device")
        SCHEDULER.wait(
            self.owner, lambda: not SCHEDULER.holds(self.owner), lambda: SCHEDULER.holds(self.owner)
        )

    def new_group_id(self) -> bytes:
        """Return what names a new group of ranks."""
        return new_group_id()

    def join_group(self, id: bytes, rank: int, size: int) -> EmulatedGroup:
        """Return the group ``id``, of devices of this process, once all have joined."""
        return join_group(self, id, rank, size)

    def watch(self, look: Call) -> None:
        """Let a host that waits while others are at work call ``look``, which raises if they fail."""
        self.owner.look = look

    def fail(self, message: str) -> None:
        """End every wait for this device with an error; any thread may call it."""
        SCHEDULER.fail(self.owner, DeviceError(message))

    def close(self) -> None:
        """Give back what it holds; what has not been done is dropped."""
        SCHEDULER.fail(self.owner, DeviceError(f"{self.address} must be open"))
