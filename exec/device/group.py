"""Ranks that exchange device arrays in the order of streams, with the semantics of NCCL.

Every method that is given a stream enqueues and returns; the host does not wait. What a group is
given begins in the order in which it was given, on whatever streams, and each op holds its stream
until all ranks that take part have come to it: a ``send`` ends when its ``receive`` has begun too.
So the ranks of a group must give it the same collectives in the same order, and messages between
two ranks match in order. Calls inside ``together`` are one op: none of them waits for another.

All sums are in place, of float32, float64, int32 or int64, and every rank gets the same bits. What
is enqueued can be captured in a graph.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from exec.device.array import DeviceArray
from exec.device.protocol import Stream


class Group(Protocol):
    """The ranks ``0 .. size - 1`` of a group, seen from ``rank``."""

    @property
    def rank(self) -> int:
        """This rank."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def library(self) -> str:
        """The name and version of what carries the numbers."""
        ...

    def allreduce(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set ``array`` on all ranks to the sum of all ranks'."""
        ...

    def reduce(self, array: DeviceArray, root: int, stream: Stream) -> None:
        """Enqueue: set ``array`` on ``root`` to the sum of all ranks'; the others' stay."""
        ...

    def broadcast(self, array: DeviceArray, root: int, stream: Stream) -> None:
        """Enqueue: set ``array`` on all ranks to that of ``root``."""
        ...

    def allgather(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set each rank's share of ``array`` on all ranks to its own; shares are equal.

        The size of ``array`` must be a multiple of that of the group.
        """
        ...

    def reduce_scatter(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set this rank's share of ``array`` to the sum of all ranks'; shares are equal.

        The size of ``array`` must be a multiple of that of the group. The other shares stay.
        """
        ...

    def send(self, array: DeviceArray, peer: int, stream: Stream) -> None:
        """Enqueue: send ``array`` to ``peer``, which receives as many elements of the dtype."""
        ...

    def receive(self, array: DeviceArray, peer: int, stream: Stream) -> None:
        """Enqueue: receive into ``array`` what ``peer`` sends."""
        ...

    def together(self) -> AbstractContextManager[object]:
        """Make one op of the calls inside, of all groups of this device; they begin at its end."""
        ...

    def check(self) -> None:
        """Raise if something that was enqueued has failed; any thread may call it.

        Raises:
            DeviceError: it says what.
        """
        ...

    def abort(self) -> None:
        """End what is under way, finished or not; any thread may call it. The group is lost."""
        ...

    def close(self) -> None:
        """Give the group back once all that was enqueued is done; all ranks call it together."""
        ...
