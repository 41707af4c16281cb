"""What every transport offers: messages and collectives between the ranks of a group.

Nothing blocks but ``Request.Wait`` and the ``run_`` form of a collective. Arrays are one-
dimensional and contiguous; they belong to the transport until the request is done. Messages
between two ranks with one tag arrive in the order in which they were sent.
"""

from collections.abc import Sequence
from typing import NoReturn, Protocol, TypeVar

from numpy.typing import DTypeLike, NDArray

from exec.program.ops import CollectiveKind

Value = TypeVar("Value")

Buffer = NDArray  # type: ignore[type-arg]  # any dtype; MPI infers it


class Request(Protocol):
    """Something under way; mpi4py's requests are of this shape, so they need no wrapping."""

    def Test(self) -> bool:  # noqa: N802  # mpi4py's name
        """Say whether it is done, and help it along."""
        ...

    def Wait(self) -> object:  # noqa: N802  # mpi4py's name
        """Return when it is done."""
        ...


class Arrival(Request, Protocol):
    """A receive under way; once it is done it says who sent the message."""

    @property
    def source(self) -> int:
        """The rank that sent it."""
        ...


class Lock(Protocol):
    """What one rank of the group holds at a time."""

    def acquire(self) -> object:
        """Return once no other rank holds it."""
        ...

    def release(self) -> object:
        """Let go of it."""
        ...


class Ranks(Protocol):
    """The ranks ``0 .. size - 1`` of a group, seen from ``rank``, whatever their messages are."""

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
        """The name and version of what carries the messages."""
        ...

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has handed to the wire, here and in all groups it was split into.

        A send counts its array, a collective what
        :func:`~exec.program.traffic.collective_nbytes` says, when it is started. What
        ``gather_objects`` and ``split`` send is not counted.
        """
        ...

    def lock(self) -> Lock:
        """Return a lock that the ranks share; all must call it together. It knows no streams."""
        ...

    def check(self) -> None:
        """Raise if another rank, or what carries the messages, is known to have failed.

        Any thread may call it: for ranks that say nothing for long.
        """
        ...

    def gather_objects(self, value: Value) -> list[Value]:
        """Return every rank's ``value``, on every rank: for set-up and reports, not for steps."""
        ...

    def abort(self, message: str, status: int) -> NoReturn:
        """End all ranks of the job with ``status``; ``message`` goes to standard error."""
        ...


class Transport(Ranks, Protocol):
    """Ranks whose messages and collectives are of arrays of the host."""

    def send(self, array: Buffer, dest: int, tag: int) -> Request:
        """Start to send ``array``; it may be overwritten once the request is done."""
        ...

    def receive(self, array: Buffer, source: int, tag: int) -> Request:
        """Start to receive into ``array`` from ``source``."""
        ...

    def receive_any(self, array: Buffer, tag: int) -> Arrival:
        """Start to receive into ``array`` from whoever sends first."""
        ...

    def start_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> Request:
        """Start ``kind``; sums are in place, and shares (of ``counts`` elements) lie in order."""
        ...

    def run_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> None:
        """Do ``kind``, and return when it is done."""
        ...

    def shareable_nbytes(self) -> int:
        """Return how many bytes the ranks can share, 0 if they have no memory in common.

        All must call it together, and all get the same.
        """
        ...

    def share(self, size: int, dtype: DTypeLike) -> list[Buffer]:
        """Return, zeroed, every rank's array of ``size`` elements in memory that all can use.

        Each rank names the size of its own. All must call it together. Where this group was made by
        :meth:`split` the memory is given back when it is closed.

        Raises:
            TransportError: the ranks of the group have no memory in common.
        """
        ...

    def split(self, color: int) -> "Transport":
        """Return the group of the ranks that name the same ``color``, in the order of ranks."""
        ...

    def close(self) -> None:
        """Give back this group, which :meth:`split` made; all of its ranks call it together."""
        ...
