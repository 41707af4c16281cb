"""Devices and ranks: which rank uses which device, and what carries arrays between them."""

import os
import socket
from dataclasses import dataclass
from enum import StrEnum

from exec.device.emulated import EmulatedDevice
from exec.device.protocol import Device
from exec.errors import DeviceError, UsageError
from exec.transport.device_transport import DeviceTransport
from exec.transport.nccl import NcclTransport
from exec.transport.protocol import Transport
from exec.transport.staged import StagedTransport


class DeviceWire(StrEnum):
    """What carries device arrays: NCCL from GPU to GPU, or the host's transport, staged."""

    AUTO = "auto"
    NCCL = "nccl"
    STAGED = "staged"


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a rank is, and why it cannot join a group of devices, if so."""

    node: str
    process: int
    address: str
    obstacle: str


def place_rank(transport: Transport, num_devices: int | None) -> int:
    """Return the number of the device that this rank uses; all ranks call it together.

    The ranks of a node take its ``num_devices`` devices in turn, or each its own if that is None.
    """
    nodes = transport.gather_objects(socket.gethostname())
    local = nodes[: transport.rank].count(nodes[transport.rank])
    return local if num_devices is None else local % num_devices


def connect_devices(
    transport: Transport, device: Device, asked: DeviceWire = DeviceWire.AUTO
) -> tuple[DeviceTransport, str]:
    """Return what carries arrays between the ranks' devices; all ranks call it together.

    It comes with a line for the user, if there is something to know: why it is not NCCL.

    Raises:
        UsageError: NCCL is asked for and two ranks are on one device; on all ranks.
        DeviceError: NCCL is asked for and missing; on all ranks.
    """
    chosen, note = choose_wire(transport, device, asked)
    if chosen is DeviceWire.NCCL:
        return NcclTransport(transport, device), note
    return StagedTransport(transport, device), note


def choose_wire(transport: Transport, device: Device, asked: DeviceWire) -> tuple[DeviceWire, str]:
    """Return which of the two it is, and why it is not NCCL if the user may wonder.

    It is NCCL if there are several ranks, each has a device of its own, and NCCL is there.
    """
    if asked is DeviceWire.STAGED or (asked is DeviceWire.AUTO and transport.size == 1):
        return DeviceWire.STAGED, ""
    seats = transport.gather_objects(_seat(device))
    shared = _shared(seats)
    missing = _missing(seats) or _apart(seats, device)
    if asked is DeviceWire.NCCL:
        if shared:
            raise UsageError(
                f"{shared}: NCCL needs a GPU a rank; use --transport mpi (host-staged), fewer "
                f"ranks, or more GPUs"
            )
        if missing:
            raise DeviceError(missing)
    if shared or missing:
        return DeviceWire.STAGED, f"messages are staged through the host: {shared or missing}"
    return DeviceWire.NCCL, ""


def _seat(device: Device) -> Seat:
    obstacle = ""
    try:
        device.new_group_id()
    except DeviceError as error:
        obstacle = str(error)
    return Seat(socket.gethostname(), os.getpid(), device.address, obstacle)


def _shared(seats: list[Seat]) -> str:
    """Return which two ranks are on one device, if any are."""
    taken: dict[tuple[str, str], int] = {}
    for rank, seat in enumerate(seats):
        first = taken.setdefault((seat.node, seat.address), rank)
        if first != rank:
            return f"rank {first} and rank {rank} are both on GPU {seat.address} of {seat.node}"
    return ""


def _missing(seats: list[Seat]) -> str:
    """Return what keeps a rank from joining a group, if anything does."""
    for rank, seat in enumerate(seats):
        if seat.obstacle:
            return f"rank {rank}: {seat.obstacle}"
    return ""


def _apart(seats: list[Seat], device: Device) -> str:
    """Return why emulated devices cannot form a group, if they cannot."""
    if isinstance(device, EmulatedDevice) and len({(s.node, s.process) for s in seats}) > 1:
        return "emulated GPUs of different processes cannot form a group; use --transport threads"
    return ""
