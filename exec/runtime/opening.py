"""Which backend: the host's memory, or a device for each rank and what carries messages between them."""

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.runtime.backend import Backend, OnDevice, OnHost
from exec.transport.protocol import Transport
from exec.transport.staged import StagedTransport


def open_backend(kind: DeviceKind, transport: Transport, *, is_tf32: bool = False) -> Backend:
    """Return where the arrays of a rank are; all ranks must call it together."""
    if kind is DeviceKind.CPU:
        return OnHost(transport)
    device = open_device(kind, 0, is_tf32=is_tf32)
    return OnDevice(kind, device, StagedTransport(transport, device))
