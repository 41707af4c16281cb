"""The meter: what a rank has sent, over the transport it began with and all groups split off it."""

from dataclasses import dataclass

from exec.device.array import DeviceArray
from exec.program.ops import CollectiveKind
from exec.program.traffic import collective_nbytes
from exec.transport.protocol import Buffer


@dataclass(slots=True)
class Meter:
    """Bytes sent by one rank; only its own thread writes, so others may read at any time."""

    nbytes: int = 0

    def count_message(self, array: Buffer | DeviceArray) -> None:
        """Count ``array`` as sent."""
        self.nbytes += array.nbytes

    def count_again(self, nbytes: int) -> None:
        """Count ``nbytes`` that are sent again without a call for each."""
        self.nbytes += nbytes

    def count_collective(
        self, kind: CollectiveKind, array: Buffer | DeviceArray, ranks: int, is_root: bool
    ) -> None:
        """Count what ``kind`` on ``array`` makes this rank send."""
        self.nbytes += collective_nbytes(kind, array.nbytes, ranks, is_root)
