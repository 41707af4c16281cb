"""What a transport of device arrays offers: messages and collectives in the order of a stream.

It is :class:`~exec.transport.protocol.Transport` for an accelerator, with one notion more: its
``stream`` is the communication lane. What is started begins when all that is on the stream is done.
A send leaves the stream free; everything else holds it, so what the stream is given next finds the
message received or the collective done. With ``is_ordered`` that comes true at once and without the
host. Otherwise the host must drive a request (``Test``, ``Wait``, ``hold``) before it gives the
stream what follows.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Stream
from exec.program.ops import CollectiveKind
from exec.transport.protocol import Ranks, Transport


class DeviceRequest(Protocol):
    """Something under way."""

    def Test(self) -> bool:  # noqa: N802  # the name that requests have
        """Say whether it is done, or needs nothing but its stream any more; help it along."""
        ...

    def Wait(self) -> object:  # noqa: N802  # the name that requests have
        """Return when it is done."""
        ...

    def hold(self, stream: Stream) -> None:
        """Let what ``stream`` is given from now on wait until it is done.

        The host goes on at once where the transport is ordered. Else it drives the request, and
        returns when it needs nothing but streams any more.
        """
        ...


class DeviceArrival(DeviceRequest, Protocol):
    """A receive under way; once its ``Test`` is true it says who sent the message."""

    @property
    def source(self) -> int:
        """The rank that sent it."""
        ...


class DeviceTransport(Ranks, Protocol):
    """Ranks of which each has a device."""

    def count_again(self, nbytes: int) -> None:
        """Count ``nbytes`` as sent: those of a graph, which sends them without calls of this."""
        ...

    @property
    def host(self) -> Transport:
        """The same ranks without their devices: the control plane."""
        ...

    @property
    def device(self) -> Device:
        """This rank's device."""
        ...

    @property
    def stream(self) -> Stream:
        """The communication lane; the groups that this was split into use the same."""
        ...

    @property
    def is_ordered(self) -> bool:
        """Whether all is done in the order of streams and the host never needs to wait."""
        ...

    def prepare(self, pairs: Collection[tuple[int, int]]) -> None:
        """Make ready for messages from the first to the second rank of each of ``pairs``.

        All ranks call it together, with the same pairs, before the first message of each.
        """
        ...

    def send(self, array: DeviceArray, dest: int, tag: int) -> DeviceRequest:
        """Start to send ``array``; it may be overwritten once the request is done."""
        ...

    def receive(self, array: DeviceArray, source: int, tag: int) -> DeviceRequest:
        """Start to receive into ``array`` from ``source``."""
        ...

    def receive_any(self, array: DeviceArray, tag: int) -> DeviceArrival:
        """Start to receive into ``array`` from whoever sends first.

        Raises:
            TransportError: what carries the messages cannot do that.
        """
        ...

    def start_collective(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> DeviceRequest:
        """Start ``kind``; sums are in place, and shares (of ``counts`` elements) lie in order."""
        ...

    def run_collective(
        self, kind: CollectiveKind, array: DeviceArray, counts: Sequence[int], root: int
    ) -> None:
        """Do ``kind``; what the stream is given next finds it done."""
        ...

    def share(self, size: int, dtype: DTypeLike) -> list[DeviceArray]:
        """Return, zeroed, every rank's array of ``size`` elements in memory that all can use.

        Each rank names the size of its own. All must call it together.

        Raises:
            TransportError: the ranks of the group have no memory in common.
        """
        ...

    def split(self, color: int) -> "DeviceTransport":
        """Return the group of the ranks that name the same ``color``, in the order of ranks."""
        ...

    def close(self) -> None:
        """Give back this group; all of its ranks call it together.

        The transport of the host is given back too if this was split off another.
        """
        ...

    def stop(self) -> None:
        """End what is under way on the device, finished or not, so that nobody waits for it.

        Any thread may call it. The transport is lost.
        """
        ...
