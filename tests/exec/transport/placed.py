"""Arrays where a wire takes them from: ``place`` puts numbers there, ``put`` changes them, ``look`` returns them.

And what ranks bring to a sum: small whole numbers, which add exactly in any order.
"""

from collections.abc import Callable

import numpy as np

from exec.device.array import DeviceArray
from exec.program.ops import CollectiveKind
from exec.transport.device_transport import DeviceTransport
from exec.transport.protocol import Buffer, Transport

Wire = Transport | DeviceTransport
Array = Buffer | DeviceArray
Case = Callable[[Wire], None]
LARGE = 1 << 17  # float64: 1 MiB, beyond any eager limit


def place(wire: Wire, numbers: Buffer) -> Array:
    """Return ``numbers`` where ``wire`` takes them from: here, or on its device."""
    return wire.device.upload(numbers) if hasattr(wire, "device") else numbers


def put(wire: Wire, array: Array, numbers: object) -> None:
    """Set ``array`` to ``numbers``, once all that is on the wire's stream is done."""
    if hasattr(wire, "device"):
        pinned = wire.device.pinned(array.size, array.dtype)
        pinned[...] = numbers
        wire.stream.bind_copy(pinned, array)()
        wire.stream.synchronize()
    else:
        array[...] = numbers


def look(wire: Wire, array: Array) -> Buffer:
    """Return the numbers of ``array``, once all that is on the wire's stream is done.

    Sends may still be under way, and wait for what the other rank does only later.
    """
    if not hasattr(wire, "device"):
        return array
    pinned = wire.device.pinned(array.size, array.dtype)
    wire.stream.bind_copy(array, pinned)()
    wire.stream.synchronize()
    return pinned.copy()


def get_ready(wire: Wire) -> None:
    """Let every rank talk to every other; only transports of devices must know that before."""
    if hasattr(wire, "device"):
        ranks = range(wire.size)
        wire.prepare([(source, dest) for source in ranks for dest in ranks if source != dest])


def meet(wire: Wire) -> None:
    """Return when all have come."""
    wire.run_collective(CollectiveKind.BARRIER, place(wire, np.empty(0)), [], 0)


def own(wire: Wire, size: int) -> Buffer:
    """Return what this rank brings to a sum: whole numbers that tell ranks and places apart."""
    return np.arange(size, dtype=np.float64) * (wire.rank + 1) + wire.rank


def total(wire: Wire, size: int) -> Buffer:
    """Return the sum of what all ranks bring."""
    p = wire.size
    return np.arange(size, dtype=np.float64) * (p * (p + 1) // 2) + p * (p - 1) // 2


def uneven(wire: Wire) -> list[int]:
    """Return shares that differ, the first of which is empty if there are several."""
    return [3 * rank if wire.size > 1 else 3 for rank in range(wire.size)]


def neighbours(wire: Wire) -> tuple[int, int]:
    """Return the rank before and the rank after this one."""
    return (wire.rank - 1) % wire.size, (wire.rank + 1) % wire.size


def do(
    wire: Wire, kind: CollectiveKind, numbers: Buffer, counts: list[int], root: int = 0
) -> tuple[Buffer, Buffer]:
    """Return the results of the blocking and of the non-blocking form on copies of ``numbers``."""
    blocking, pending = place(wire, numbers.copy()), place(wire, numbers.copy())
    wire.run_collective(kind, blocking, counts, root)
    wire.start_collective(kind, pending, counts, root).Wait()
    return look(wire, blocking), look(wire, pending)
