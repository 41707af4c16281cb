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


def open_backend(
    plan: TrainingPlan, transport: Transport, asked: DeviceWire = DeviceWire.AUTO
) -> Backend:
    """Return where the arrays of a rank are; all ranks must call it together.

    Raises:
        AgreedError: a rank has no device, or NCCL is asked for and cannot be had; on all ranks.
    """
    kind, is_unordered = plan.device, plan.options.strategy in UNORDERED
    if asked is DeviceWire.AUTO and is_unordered:
        asked = DeviceWire.STAGED
    if kind is DeviceKind.CPU:
        return OnHost(transport)
    index = place_rank(transport, together(transport, lambda: count_devices(kind)))
    device: Device = together(transport, lambda: open_device(kind, index, is_tf32=plan.is_tf32))
    wire, note = together(transport, lambda: connect_devices(transport, device, asked))
    return OnDevice(kind, device, wire, note)
