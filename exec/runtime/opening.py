"""Which backend: the host's memory, or a device for each rank and what carries messages between them."""

from exec.device.kind import DeviceKind
from exec.device.opening import count_devices, open_device
from exec.device.protocol import Device
from exec.plan.strategy import UNORDERED
from exec.runtime.backend import Backend, OnDevice, OnHost
from exec.runtime.devices import DeviceWire, connect_devices, place_rank
from exec.runtime.job import together
from exec.runtime.training_plan import TrainingPlan
from exec.transport.protocol import Transport


def backend_of(
    plan: TrainingPlan, transport: Transport, asked: DeviceWire = DeviceWire.AUTO
) -> Backend:
    """Return where the arrays of a training are; all ranks must call it together.

    Raises:
        AgreedError: a rank has no device, or NCCL is asked for and cannot be had; on all ranks.
    """
    if asked is DeviceWire.AUTO and plan.options.strategy in UNORDERED:
        asked = DeviceWire.STAGED
    return open_backend(plan.device, transport, asked, is_tf32=plan.is_tf32)


def open_backend(
    kind: DeviceKind, transport: Transport, asked: DeviceWire = DeviceWire.AUTO, *, is_tf32: bool = False
) -> Backend:  # fmt: skip
    """Return where the arrays of a rank are, as :func:`backend_of` does."""
    if kind is DeviceKind.CPU:
        return OnHost(transport)
    index = place_rank(transport, together(transport, lambda: count_devices(kind)))
    device: Device = together(transport, lambda: open_device(kind, index, is_tf32=is_tf32))
    wire, note = together(transport, lambda: connect_devices(transport, device, asked))
    return OnDevice(kind, device, wire, note)
