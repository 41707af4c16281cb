"""Device arrays that several ranks of a node use, as parameters in shared memory.

Threads of one process hand their arrays around. An emulated device is given windows of the host's
transport. Processes on one GPU, or on GPUs that reach each other's memory, open what another has
exported.
"""

from typing import Protocol, runtime_checkable

from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Host, zeros
from exec.errors import TransportError
from exec.transport.protocol import Transport
from exec.transport.threads import THREADS


@runtime_checkable
class WrappingDevice(Protocol):
    """A device whose memory is the host's."""

    def wrap(self, host: Host) -> DeviceArray:
        """Return ``host`` as an array of the device: the same memory."""
        ...


@runtime_checkable
class ExportingDevice(Protocol):
    """A device whose memory other processes of the node can use."""

    def export(self, array: DeviceArray) -> bytes:
        """Return what lets another process open ``array``, the start of an allocation."""
        ...

    def open_shared(self, handle: bytes, size: int, dtype: DTypeLike) -> DeviceArray:
        """Return the array that another process has exported; it lives as long as that one's."""
        ...


def share_arrays(host: Transport, device: Device, size: int, dtype: DTypeLike) -> list[DeviceArray]:
    """Return, zeroed, every rank's array of ``size`` elements; all ranks call it together.

    Raises:
        TransportError: the ranks have no memory in common.
    """
    if host.library == THREADS:
        return host.gather_objects(zeros(device, size, dtype))
    if isinstance(device, WrappingDevice):
        return [device.wrap(window) for window in host.share(size, dtype)]
    if not isinstance(device, ExportingDevice):
        raise TransportError(
            f"{device.name} cannot share its memory between processes; choose another strategy"
        )
    own = zeros(device, max(size, 1), dtype)  # what is exported must not be empty
    handles = host.gather_objects((device.export(own), size))
    return [
        own[:size] if rank == host.rank else device.open_shared(handle, theirs, dtype)
        for rank, (handle, theirs) in enumerate(handles)
    ]
