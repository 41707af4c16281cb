"""A job: the same function on every rank, and one end for all of them."""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import closing, nullcontext
from enum import StrEnum
from functools import wraps
from typing import ParamSpec, TypeVar

from exec.errors import StepcastError, UsageError
from exec.launch import launched_ranks
from exec.runtime.devices import DeviceWire
from exec.transport import tcp
from exec.transport.mpi import connect
from exec.transport.protocol import Transport
from exec.transport.rendezvous import PATH_VARIABLE, find_rendezvous
from exec.transport.threads import run_threads

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
_FAILED_STATUS, _INTERRUPTED_STATUS = 1, 130


class TransportName(StrEnum):
    """Which wire to use; ``auto`` is MPI under its launcher, TCP where ranks are to meet, else threads.

    ``nccl`` is between GPUs; what else ranks have to say goes as with ``auto``.
    """

    AUTO = "auto"
    MPI = "mpi"
    THREADS = "threads"
    TCP = "tcp"
    NCCL = "nccl"

    @property
    def device_wire(self) -> DeviceWire:
        """What carries arrays between devices if this is asked for."""
        if self is TransportName.NCCL:
            return DeviceWire.NCCL
        return DeviceWire.AUTO if self is TransportName.AUTO else DeviceWire.STAGED


class AgreedError(StepcastError):
    """An error that every rank raises, so that all can end in order."""


def together(transport: Transport, body: Callable[[], Result]) -> Result:
    """Return ``body()``; if it fails on any rank, raise :class:`AgreedError` on all of them."""
    result: Result | None = None
    message = ""
    try:
        result = body()
    except StepcastError as error:
        message = str(error)
    except MemoryError as error:
        message = (
            f"not enough memory: {error or 'none is left'}; use a smaller net, batch or data set"
        )
    messages = transport.gather_objects(message)
    failed = [rank for rank, each in enumerate(messages) if each]
    if failed:
        where = "" if len(failed) == transport.size else f"rank {failed[0]}: "
        raise AgreedError(where + messages[failed[0]])
    return result  # type: ignore[return-value]  # no message, so body returned


def choose_transport(name: TransportName) -> TransportName:
    """Return the transport of the host that ``auto`` or ``nccl`` stands for here.

    Raises:
        UsageError: threads are asked for under a launcher that started several processes, or TCP
            where nothing says where ranks are to meet.
    """
    launched = launched_ranks(os.environ)
    if name in (TransportName.AUTO, TransportName.NCCL):
        if os.environ.get(PATH_VARIABLE) or (launched == 1 and find_rendezvous(os.environ)):
            return TransportName.TCP
        return TransportName.MPI if launched > 1 else TransportName.THREADS
    if name is TransportName.TCP and find_rendezvous(os.environ) is None:
        raise UsageError(
            f"transport tcp needs a place where ranks meet: set {PATH_VARIABLE} to a file that all can "
            f"read, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun does"
        )
    if name is TransportName.THREADS and launched > 1:
        raise UsageError(f"transport must be mpi under a launcher of {launched} ranks, got threads")
    return name


def started_ranks(name: TransportName, threads: int | None) -> int:
    """Return how many ranks there are over the host's transport ``name``; ``threads`` of them are asked for."""
    if name is TransportName.MPI:
        return launched_ranks(os.environ)
    if name is TransportName.TCP and (rendezvous := find_rendezvous(os.environ)):
        return rendezvous.size
    return 1 if threads is None else threads


def run_job(name: TransportName, ranks: int | None, body: Callable[[Transport], Result]) -> Result:
    """Run ``body`` on every rank, and return rank 0's result, or under MPI this rank's.

    If a rank fails, all end, and the rank and the cause are named.
    """
    chosen = choose_transport(name)
    if chosen is TransportName.THREADS:
        return run_threads(ranks or 1, body)[0]
    rendezvous = find_rendezvous(os.environ) if chosen is TransportName.TCP else None
    transport: Transport = connect() if rendezvous is None else tcp.connect(rendezvous)
    with nullcontext() if rendezvous is None else closing(transport):  # ranks leave TCP together
        return _run_over(transport, ranks, body)


def _run_over(
    transport: Transport, ranks: int | None, body: Callable[[Transport], Result]
) -> Result:
    """Run ``body`` on this rank."""
    if ranks not in (None, transport.size):
        raise UsageError(
            f"ranks must be the {transport.size} that the launcher started, got {ranks}"
        )
    return ended_with(transport, body)(transport)


def ended_with(transport: Transport, body: Callable[Arguments, Result]) -> Callable[Arguments, Result]:  # fmt: skip
    """Return ``body`` such that, if it fails on this rank, all ranks of ``transport`` end.

    The rank and the cause are named; only what all ranks have agreed on is raised.
    """

    @wraps(body)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return body(*arguments, **named)
        except AgreedError:
            raise
        except KeyboardInterrupt:
            transport.abort("interrupted" if transport.rank == 0 else "", _INTERRUPTED_STATUS)
        except BaseException as error:  # noqa: BLE001  # any failure of one rank must end the others
            is_known = isinstance(error, StepcastError) or type(error).__module__.startswith(
                "mpi4py"
            )
            detail = "" if is_known else traceback.format_exc()
            cause = f"{type(error).__name__}: {error}"
            if type(error).__module__.startswith("mpi4py"):
                cause = f"MPI lost another rank, which has probably died: {error}"
            sys.stdout.flush()
            transport.abort(
                f"{detail}error: rank {transport.rank} of {transport.size} failed: {cause}",
                _FAILED_STATUS,
            )

    return run
