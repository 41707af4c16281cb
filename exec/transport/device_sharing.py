"""Device arrays that several ranks of a node use, as parameters in shared memory.

Threads of one process hand their arrays around. An emulated device is given windows of the host's
transport. Processes on one GPU, or on GPUs that reach each other's memory, open what another has
exported.
"""

import socket

import numpy as np
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.cuda import CudaDevice
from exec.device.cuda_ipc import export, open_shared, shareable
from exec.device.emulated import EmulatedDevice
from exec.device.protocol import Device, zeros
from exec.errors import TransportError
from exec.transport.protocol import Transport
from exec.transport.threads import THREADS


def share_arrays(host: Transport, device: Device, size: int, dtype: DTypeLike) -> list[DeviceArray]:
    """Return, zeroed, every rank's array of ``size`` elements; all ranks call it together.

    Raises:
        TransportError: the ranks have no memory in common.
    """
    if host.library == THREADS:
        return host.gather_objects(zeros(device, size, dtype))
    if isinstance(device, EmulatedDevice):
        return [device.wrap(window) for window in host.share(size, dtype)]
    if not isinstance(device, CudaDevice):
        raise TransportError(
            f"{device.name} cannot share its memory between processes; choose another strategy"
        )
    return _share_between_processes(host, device, size, dtype)


def _share_between_processes(
    host: Transport, device: CudaDevice, size: int, dtype: DTypeLike
) -> list[DeviceArray]:
    own = shareable(device, size, dtype)
    device.write(own, np.zeros(size, dtype))
    exported = host.gather_objects((socket.gethostname(), export(device, own), size))
    nodes = {node for node, _, _ in exported}
    if len(nodes) > 1:
        raise TransportError(
            f"shared memory needs all {host.size} ranks on one node, got {', '.join(sorted(nodes))}; "
            f"start them on one node, or choose another strategy"
        )
    return [
        own if rank == host.rank else open_shared(device, handle, theirs, dtype)
        for rank, (_, handle, theirs) in enumerate(exported)
    ]
