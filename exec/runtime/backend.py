"""What a session needs of the place where arrays are: the host's memory, or a device's."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from exec.device.kind import DeviceKind
from exec.device.protocol import Device, Stream
from exec.gpu.feed import DeviceFeed
from exec.gpu.inference import Inference
from exec.gpu.loading import advance
from exec.network.network import Network
from exec.nn.backend import Array, Indices
from exec.nn.inference import num_correct
from exec.nn.weights import Weights
from exec.program.channels import check_order, talking_pairs
from exec.program.program import Program
from exec.program.timeline import Span
from exec.runtime.buffers import Buffers
from exec.runtime.comm import Queue, Wire
from exec.runtime.device_kernels import DeviceKernelBinder
from exec.runtime.device_step import bind_device_step
from exec.runtime.kernels import Feed, KernelBinder
from exec.runtime.pacer import Pacer
from exec.runtime.step import bind_step
from exec.runtime.turns import DeviceClock, HostClock, TurnClock
from exec.runtime.watchdog import Watchdog
from exec.runtime.windows import Sharing
from exec.transport.device_transport import DeviceTransport
from exec.transport.protocol import Transport

Examine = Callable[[Weights], int]

_SAMPLES_SHARE = 0.5
"""Of the memory that is free on a device, how much samples may take; others come batch by batch."""


class AnyStep(Protocol):
    """A bound program."""

    def run(self) -> None:
        """Do the step, or enqueue it."""
        ...

    def run_timed(self, spans: list[Span]) -> None:
        """Do the step, and append a span for each op."""
        ...


class AnyLoss(Protocol):
    """The sum of a loss."""

    total: float


class AnyFeed(Protocol):
    """Where batches come from."""

    def begin(self, order: Indices) -> None:
        """Let the steps to come take samples in ``order``."""
        ...

    def take(self, start: int, stop: int) -> None:
        """Let the next step take those from place ``start`` of the order to ``stop``."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """How a program is bound: see :class:`~exec.runtime.kernels.KernelBinder` for the fields.

    ``rows`` are the places of the order that a turn moves on by.
    """

    samples: int
    rows: int
    sample_starts: tuple[int, ...]
    image_starts: tuple[int, ...]
    shared_rows: tuple[int, ...]
    queue: Queue
    learning_rate: float
    momentum: float
    slowness: float = 1.0
    pacer: Pacer | None = None


class Backend(Protocol):
    """Where a session's arrays are, and what computes with them."""

    @property
    def device(self) -> Device | None:
        """The device, None for the host."""
        ...

    @property
    def note(self) -> str:
        """What the user may wonder about, or nothing."""
        ...

    def description(self) -> dict[str, Any]:
        """Return what computes and what carries messages, for the record."""
        ...

    def sharing(self, color: int) -> Sharing:
        """Return the ranks that name the same ``color``, to share memory until it is closed."""
        ...

    def connect(self, programs: Sequence[Program]) -> None:
        """Make the groups that ``programs`` need; all ranks call it together."""
        ...

    def feed(self, images: Array, labels: Indices) -> AnyFeed:
        """Return where batches come from."""
        ...

    def bind(
        self, program: Program, buffers: Buffers, turn: Turn
    ) -> tuple[AnyStep, Sequence[AnyLoss]]:
        """Return what this rank does of ``program``, and its losses."""
        ...

    def clock(self) -> TurnClock:
        """Return what times turns."""
        ...

    def examiner(self, network: Network, images: Array, labels: Indices) -> Examine:
        """Return what says of weights for how many of ``images`` the likeliest class is the label."""
        ...

    def synchronize(self) -> None:
        """Return when all that was enqueued is done."""
        ...

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has handed to the wire."""
        ...

    def watched(self) -> AbstractContextManager[object]:
        """Return what, while it is entered, ends this rank's waiting if another rank has failed."""
        ...

    def close(self) -> None:
        """Give back the groups of ranks."""
        ...


@dataclass(slots=True)
class OnHost:
    """NumPy arrays, and messages between them."""

    transport: Transport
    device: None = None
    note: str = ""
    _wire: Wire[Transport] = field(init=False)
    _sharing: list[Transport] = field(init=False, default_factory=list)
    _feed: Feed = field(init=False)

    def description(self) -> dict[str, Any]:
        """Return what computes and what carries messages."""
        return {"kind": DeviceKind.CPU, "wire": self.transport.library}

    def sharing(self, color: int) -> Sharing:
        """Return the ranks that name the same ``color``."""
        self._sharing.append(self.transport.split(color))
        return self._sharing[-1]

    def connect(self, programs: Sequence[Program]) -> None:
        """Make the groups that ``programs`` need."""
        self._wire = Wire.connect(self.transport, programs)

    def feed(self, images: Array, labels: Indices) -> Feed:
        """Return where batches come from."""
        self._feed = Feed(images, labels, np.arange(0))
        return self._feed

    def bind(
        self, program: Program, buffers: Buffers, turn: Turn
    ) -> tuple[AnyStep, Sequence[AnyLoss]]:
        """Return what this rank does of ``program``, and its losses."""
        binder = KernelBinder(
            buffers, self._feed, turn.learning_rate, turn.momentum, turn.samples,
            turn.sample_starts, turn.image_starts, turn.shared_rows,
        )  # fmt: skip
        step = bind_step(
            program, self._wire, buffers, binder, turn.queue, turn.slowness, turn.pacer
        )
        return step, binder.losses

    def clock(self) -> TurnClock:
        """Return the host's clock."""
        return HostClock()

    def examiner(self, network: Network, images: Array, labels: Indices) -> Examine:  # noqa: ARG002  # weights bring it
        """Return what says of weights for how many of ``images`` the likeliest class is the label."""
        return partial(num_correct, images=images, labels=labels)

    def synchronize(self) -> None:
        """Do nothing: what was called is done."""

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has handed to the wire."""
        return self.transport.nbytes_sent

    def watched(self) -> AbstractContextManager[object]:
        """Return nothing: the host's transports see to it."""
        return nullcontext()

    def close(self) -> None:
        """Give back the groups of ranks, and the memory that they share."""
        for group in (*self._wire.groups.values(), *self._sharing):
            group.close()


@dataclass(slots=True)
class OnDevice:
    """Arrays of a device, what a stream of it does with them, and messages between devices.

    ``note`` is what the user may wonder about: why it is not NCCL that carries these. Steps are
    replayed as graphs where they can be, unless ``is_replayed`` is false.
    """

    kind: DeviceKind
    device: Device
    transport: DeviceTransport
    note: str = ""
    is_replayed: bool = True
    _stream: Stream = field(init=False)
    _wire: Wire[DeviceTransport] = field(init=False)
    _sharing: list[DeviceTransport] = field(init=False, default_factory=list)
    _feed: DeviceFeed = field(init=False)

    def __post_init__(self) -> None:
        self._stream = self.device.stream()

    def description(self) -> dict[str, Any]:
        """Return what computes and what carries messages."""
        return {
            "kind": self.kind, "name": self.device.name, "address": self.device.address,
            "is_tf32": self.device.is_tf32, "software": self.device.software,
            "wire": self.transport.library,
        }  # fmt: skip

    def sharing(self, color: int) -> Sharing:
        """Return the ranks that name the same ``color``."""
        self._sharing.append(self.transport.split(color))
        return self._sharing[-1]

    def connect(self, programs: Sequence[Program]) -> None:
        """Make the groups that ``programs`` need, and the channels.

        Raises:
            UsageError: NCCL cannot carry the messages of a program.
        """
        if self.transport.is_ordered and self.transport.size > 1:
            for program in programs:
                check_order(program)
            self.transport.prepare(talking_pairs(programs))
        self._wire = Wire.connect(self.transport, programs)

    def feed(self, images: Array, labels: Indices) -> DeviceFeed:
        """Return where batches come from: the device, if the samples leave it room."""
        room = int(_SAMPLES_SHARE * self.device.memory()[0])
        self._feed = DeviceFeed(self.device, self._stream, images, labels, room)
        return self._feed

    def bind(
        self, program: Program, buffers: Buffers, turn: Turn
    ) -> tuple[AnyStep, Sequence[AnyLoss]]:
        """Return what this rank does of ``program``, and its losses."""
        binder = DeviceKernelBinder(
            self._stream, buffers, self._feed, turn.learning_rate, turn.momentum, turn.samples,
            turn.sample_starts, turn.image_starts, turn.shared_rows,
        )  # fmt: skip
        forward = advance(self._stream, self._feed.position, turn.rows)
        step = bind_device_step(
            program, self._wire, binder, turn.queue, forward, is_replayed=self.is_replayed
        )
        return step, binder.losses

    def clock(self) -> TurnClock:
        """Return the clock of the stream."""
        return DeviceClock(self._stream)

    def examiner(self, network: Network, images: Array, labels: Indices) -> Examine:
        """Return what says of weights for how many of ``images`` the likeliest class is the label."""
        judge = Inference(self._stream, network, images, labels, images.dtype)
        return lambda weights: judge.num_correct(weights.parameters, weights.stats)

    def synchronize(self) -> None:
        """Return when all that was enqueued is done."""
        self.device.synchronize()

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has handed to the wire."""
        return self.transport.nbytes_sent

    def watched(self) -> AbstractContextManager[object]:
        """Return the watchdog over the groups of devices."""
        return Watchdog(self.transport) if self.transport.size > 1 else nullcontext()

    def close(self) -> None:
        """Give back the groups of ranks, and the memory that they share."""
        for group in (*self._wire.groups.values(), *self._sharing):
            group.close()
