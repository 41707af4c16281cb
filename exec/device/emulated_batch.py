"""What ranks of emulated devices do together, as NCCL does it.

A call is a part of a batch: all that is called inside ``together``, or the call alone. A batch
begins when its stream has come to it and the rank's last batch in the group is done, and holds its
stream until all its parts are done. Parts are matched in order: the collectives of all ranks, and
the messages from one rank to another. Sums are made in the order of ranks.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from exec.device.array import DeviceArray
from exec.device.emulated_memory import view
from exec.device.emulated_scheduler import SCHEDULER, Owner, Queue
from exec.device.protocol import Host
from exec.errors import DeviceError


class PartKind(StrEnum):
    """What a part of a batch does."""

    ALLREDUCE = "allreduce"
    REDUCE = "reduce"
    BROADCAST = "broadcast"
    ALLGATHER = "allgather"
    REDUCE_SCATTER = "reduce_scatter"
    SEND = "send"
    RECEIVE = "receive"


@dataclass(slots=True, eq=False)
class Part:
    """One call; ``root`` is the peer of a message."""

    kind: PartKind
    array: DeviceArray
    root: int
    is_done: bool = False

    def __str__(self) -> str:
        size, dtype = self.array.size, self.array.dtype
        return f"{self.kind} of {size} {dtype}, root or peer {self.root}"


@dataclass(slots=True, eq=False)
class Communicator:
    """What the ranks of a group have in common; ``failure`` says what has gone wrong in it.

    Of each rank it has how many batches were given and done, and the parts that have begun.
    """

    size: int
    owners: dict[int, Owner] = field(default_factory=dict)
    aborted: set[int] = field(default_factory=set)
    failure: str = ""
    is_complete: bool = False
    num_given: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    num_done: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    given: dict[int, dict[int, Queue]] = field(default_factory=lambda: defaultdict(dict))
    collectives: dict[int, deque[Part]] = field(default_factory=lambda: defaultdict(deque))
    messages: dict[tuple[PartKind, int, int], deque[Part]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def begin(self, rank: int, part: Part) -> None:
        """Let a part begin, and all that waited for it be done."""
        match part.kind:
            case PartKind.SEND | PartKind.RECEIVE:
                ends = (rank, part.root) if part.kind is PartKind.SEND else (part.root, rank)
                self.messages[(part.kind, *ends)].append(part)
                sends = self.messages[(PartKind.SEND, *ends)]
                receives = self.messages[(PartKind.RECEIVE, *ends)]
                if sends and receives:
                    self._finish({ends[0]: sends.popleft(), ends[1]: receives.popleft()})
            case _:
                self.collectives[rank].append(part)
                if all(self.collectives[each] for each in range(self.size)):
                    self._finish(
                        {each: self.collectives[each].popleft() for each in range(self.size)}
                    )

    def _finish(self, parts: dict[int, Part]) -> None:
        first, *others = parts.values()
        is_message = first.kind is PartKind.SEND
        for other in others:
            is_alike = is_message or (other.kind, other.root) == (first.kind, first.root)
            alike = (first.array.size, first.array.dtype) == (other.array.size, other.array.dtype)
            if not (is_alike and alike):
                raise DeviceError(f"ranks of a group must do the same: {first}; {other}")
        arrays = {rank: view(part.array).reshape(-1) for rank, part in parts.items()}
        if is_message:
            source, target = arrays.values()
            target[...] = source
        else:
            exchange(first.kind, [arrays[rank] for rank in range(self.size)], first.root)
        for part in parts.values():
            part.is_done = True


def exchange(kind: PartKind, arrays: list[Host], root: int) -> None:
    """Do a collective on the arrays of all ranks."""
    size = len(arrays)
    length = len(arrays[0]) // size
    shares = [slice(rank * length, (rank + 1) * length) for rank in range(size)]
    match kind:
        case PartKind.BROADCAST:
            for array in arrays:
                array[...] = arrays[root]
        case PartKind.ALLGATHER:
            for array in arrays:
                for owner, share in zip(arrays, shares, strict=True):
                    array[share] = owner[share]
        case _:
            total = arrays[0].copy()
            for array in arrays[1:]:
                total += array
            for rank, array in enumerate(arrays):
                if kind is PartKind.ALLREDUCE or (kind is PartKind.REDUCE and rank == root):
                    array[...] = total
                elif kind is PartKind.REDUCE_SCATTER:
                    array[shares[rank]] = total[shares[rank]]


@dataclass(slots=True, eq=False)
class Batch:
    """Parts that begin together, in the queue of ``rank``; ``number`` counts those of the rank."""

    communicator: Communicator
    rank: int
    parts: list[Part]
    number: int = -1
    has_begun: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} of a group: " + ", ".join(str(part) for part in self.parts)

    def is_ready(self) -> bool:
        """Begin if it can, and say whether all is done."""
        shared = self.communicator
        if self.rank in shared.aborted:
            return True
        if shared.num_done[self.rank] != self.number:
            return False
        try:
            self._begin()
        except DeviceError as error:
            shared.failure = str(error)
            for owner in shared.owners.values():
                SCHEDULER.fail(owner, error)
            raise
        if all(part.is_done for part in self.parts):
            return True
        if shared.aborted:
            raise DeviceError(shared.failure)
        return False

    def run(self) -> None:
        """Leave the group to the rank's next batch."""
        self.communicator.num_done[self.rank] += 1
        self.communicator.given[self.rank].pop(self.number)

    def given_to(self, queue: Queue) -> "Batch":
        """Return it as the next one that the rank gives to the group."""
        shared = self.communicator
        number = shared.num_given[self.rank]
        shared.num_given[self.rank] += 1
        shared.given[self.rank][number] = queue
        parts = [Part(part.kind, part.array, part.root) for part in self.parts]
        return Batch(shared, self.rank, parts, number)

    def blockers(self) -> Iterable[Queue | Owner]:
        """Return where the rank's earlier batch is, or where those are that this one meets."""
        shared = self.communicator
        now = shared.num_done[self.rank]
        if now != self.number:
            yield shared.given[self.rank][now]
            return
        for part in self.parts:
            if part.is_done:
                continue
            is_message = part.kind in (PartKind.SEND, PartKind.RECEIVE)
            for peer in [part.root] if is_message else range(shared.size):
                if peer == self.rank or (not is_message and shared.collectives[peer]):
                    continue
                next_one = shared.given[peer].get(shared.num_done[peer])
                yield shared.owners[peer] if next_one is None else next_one

    def _begin(self) -> None:
        if self.has_begun:
            return
        self.has_begun = True
        for part in self.parts:
            self.communicator.begin(self.rank, part)
