"""Groups of emulated devices of one process, with NCCL's semantics."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from exec.device.array import DeviceArray
from exec.device.emulated_batch import Batch, Communicator, Part, PartKind
from exec.device.emulated_scheduler import SCHEDULER
from exec.device.protocol import Stream
from exec.errors import DeviceError

if TYPE_CHECKING:
    from exec.device.emulated import EmulatedDevice

DTYPES = ("float32", "float64", "int32", "int64")

_COMING: dict[bytes, Communicator] = {}
_NUMBERS = count()


def new_group_id() -> bytes:
    """Return what names a new group of this process."""
    return b"emulated group %d" % next(_NUMBERS)


def join_group(device: "EmulatedDevice", id: bytes, rank: int, size: int) -> "EmulatedGroup":
    """Return the group ``id`` once its ``size`` ranks have joined.

    Raises:
        DeviceError: two ranks are on one device, or do not agree.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank must be less than {size}, got {rank}")
    with SCHEDULER.changed:
        shared = _COMING.setdefault(id, Communicator(size))
        for other, owner in shared.owners.items():
            if other == rank or owner.name == device.address or shared.size != size:
                shared.failure = shared.failure or (
                    f"ranks of a group must differ and have a device each; rank {rank} of {size} on "
                    f"{device.address} comes after rank {other} of {shared.size} on {owner.name}"
                )
        shared.owners.setdefault(rank, device.owner)
        if len(shared.owners) == size and not shared.failure:
            del _COMING[id]
            shared.is_complete = True
        SCHEDULER.changed.notify_all()

    def have_all_joined() -> bool:
        if shared.is_complete:  # though one that was faster may have left again
            return True
        if shared.failure:
            raise DeviceError(shared.failure)
        for owner in shared.owners.values():
            owner.check()
        return False

    SCHEDULER.wait(device.owner, have_all_joined, list)
    return EmulatedGroup(device, shared, rank)


class EmulatedGroup:
    """The ranks of a group, seen from one."""

    def __init__(self, device: "EmulatedDevice", shared: Communicator, rank: int) -> None:
        self._device = device
        self._shared = shared
        self._rank = rank

    @property
    def rank(self) -> int:
        """This rank."""
        return self._rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self._shared.size

    @property
    def library(self) -> str:
        """What carries the numbers."""
        return "emulated group"

    def allreduce(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set ``array`` on all ranks to the sum of all ranks'."""
        self._call(PartKind.ALLREDUCE, array, 0, stream)

    def reduce(self, array: DeviceArray, root: int, stream: Stream) -> None:
        """Enqueue: set ``array`` on ``root`` to the sum of all ranks'."""
        self._call(PartKind.REDUCE, array, root, stream)

    def broadcast(self, array: DeviceArray, root: int, stream: Stream) -> None:
        """Enqueue: set ``array`` on all ranks to that of ``root``."""
        self._call(PartKind.BROADCAST, array, root, stream)

    def allgather(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set each rank's share of ``array`` on all ranks to its own."""
        self._call(PartKind.ALLGATHER, array, 0, stream)

    def reduce_scatter(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set this rank's share of ``array`` to the sum of all ranks'."""
        self._call(PartKind.REDUCE_SCATTER, array, 0, stream)

    def send(self, array: DeviceArray, peer: int, stream: Stream) -> None:
        """Enqueue: send ``array`` to ``peer``."""
        self._call(PartKind.SEND, array, peer, stream)

    def receive(self, array: DeviceArray, peer: int, stream: Stream) -> None:
        """Enqueue: receive into ``array`` what ``peer`` sends."""
        self._call(PartKind.RECEIVE, array, peer, stream)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one batch of each group's calls inside; they begin at the end."""
        device = self._device
        if device.together is not None:
            yield
            return
        calls: list[tuple[EmulatedGroup, Part, Stream]] = []
        device.together = calls
        try:
            yield
        finally:
            device.together = None
        groups = list(dict.fromkeys(group for group, _, _ in calls))
        for group in groups:
            own = [(part, stream) for of_group, part, stream in calls if of_group is group]
            group.give([part for part, _ in own], list(dict.fromkeys(each for _, each in own)))

    def check(self) -> None:
        """Raise if something that was enqueued has failed."""
        self._device.owner.check()
        if self._shared.failure:
            raise DeviceError(self._shared.failure)

    def abort(self) -> None:
        """End this rank's batches, done or not; the other ranks' fail."""
        with SCHEDULER.changed:
            self._shared.aborted.add(self._rank)
            self._shared.failure = self._shared.failure or f"rank {self._rank} has left the group"
            SCHEDULER.changed.notify_all()

    def close(self) -> None:
        """Return once all that was enqueued is done."""
        shared, rank = self._shared, self._rank
        SCHEDULER.wait(
            self._device.owner,
            lambda: shared.num_done[rank] == shared.num_given[rank],
            lambda: [shared.given[rank][shared.num_done[rank]]],
        )

    def _call(self, kind: PartKind, array: DeviceArray, root: int, stream: Stream) -> None:
        self.check()
        is_message = kind in (PartKind.SEND, PartKind.RECEIVE)
        if not 0 <= root < self.size or (is_message and root == self.rank):
            raise ValueError(f"rank must be another one below {self.size}, got {root}")
        if kind in (PartKind.ALLGATHER, PartKind.REDUCE_SCATTER) and array.size % self.size:
            raise ValueError(
                f"array must have a multiple of {self.size} elements, got {array.size}"
            )
        if array.dtype.name not in DTYPES or array.is_transposed:
            raise ValueError(f"array must be rows of {', '.join(DTYPES)}, got {array.dtype}")
        if stream.device is not self._device:
            raise ValueError("stream must be of the group's device")
        part = Part(kind, array, root)
        if self._device.together is not None:
            self._device.together.append((self, part, stream))
        else:
            self.give([part], [stream])

    def give(self, parts: list[Part], streams: list[Stream]) -> None:
        """Give one batch to the first stream; the others wait before and after it."""
        first, *others = streams
        for other in others:
            first.wait(other.record())
        first.enqueue(Batch(self._shared, self._rank, parts))  # type: ignore[attr-defined]
        for other in others:
            other.wait(first.record())
