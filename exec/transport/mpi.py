"""Ranks as MPI processes; this file and ``pool.py`` know mpi4py, and no other.

Importing ``mpi4py.MPI`` initialises MPI, so it happens inside :func:`connect` only.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from exec.errors import TransportError
from exec.launch import launched_ranks
from exec.program.ops import CollectiveKind
from exec.transport.flags import FLAG_ELEMENTS, flag_barrier, usable_cores
from exec.transport.meter import Meter
from exec.transport.protocol import Arrival, Buffer, Lock, Request, Value

if TYPE_CHECKING:
    from mpi4py import MPI


_SHARED_DIRECTORY = "/dev/shm"  # noqa: S108  # where Linux keeps memory that processes share


def _free_nbytes() -> int:
    """Return how much room there is for windows on this node."""
    if not os.path.isdir(_SHARED_DIRECTORY):
        return sys.maxsize
    found = os.statvfs(_SHARED_DIRECTORY)
    return max(1, found.f_bavail * found.f_frsize)


def connect() -> "MpiTransport":
    """Return the transport over ``MPI_COMM_WORLD``.

    Raises:
        TransportError: mpi4py or MPI is missing, or the launcher belongs to another MPI, so that
            every process would be a world of its own.
    """
    try:
        from mpi4py import MPI  # noqa: PLC0415  # importing it initialises MPI
    except (ImportError, RuntimeError) as error:
        raise TransportError(
            f"MPI cannot be loaded ({error}); install the mpi extra (pip install 'stepcast[mpi]') "
            f"or, on a cluster, mpi4py over its own MPI"
        ) from error
    expected, size = launched_ranks(os.environ), MPI.COMM_WORLD.Get_size()
    if size == 1 and expected > 1:
        library = MPI.Get_library_version().splitlines()[0].strip("\x00 ")
        raise TransportError(
            f"the launcher started {expected} ranks, but each sees a world of 1: it is not the "
            f"launcher of this MPI ({library}). Use the mpiexec beside this Python "
            f"({os.path.join(os.path.dirname(sys.executable), 'mpiexec')}), or with Slurm "
            f"srun --mpi=pmi2 for MPICH and --mpi=pmix for Open MPI"
        )
    return MpiTransport(MPI.COMM_WORLD, MPI)


@dataclass(slots=True)
class _Finish:
    """A request with something left to do on this rank when it is done."""

    request: "MPI.Request"
    finish: Callable[[], None]
    is_done: bool = False

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        if not self.is_done and self.request.Test():
            self.finish()
            self.is_done = True
        return self.is_done

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        if not self.is_done:
            self.request.Wait()
            self.finish()
            self.is_done = True


@dataclass(slots=True)
class _Arrival:
    """A receive from any rank; ``status`` knows whose message it was."""

    request: "MPI.Request"
    status: "MPI.Status"

    @property
    def source(self) -> int:
        return self.status.Get_source()

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        return self.request.Test(self.status)

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        self.request.Wait(self.status)


@dataclass(slots=True)
class _WindowLock:
    """A lock made of an exclusive access to rank 0's part of a window."""

    window: "MPI.Win"

    def acquire(self) -> None:
        self.window.Lock(0)

    def release(self) -> None:
        self.window.Unlock(0)


class MpiTransport:
    """A :class:`~exec.transport.protocol.Transport` over an MPI communicator."""

    def __init__(self, comm: "MPI.Intracomm", mpi: Any, meter: Meter | None = None) -> None:
        self._comm, self._mpi, self._meter = comm, mpi, meter or Meter()
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._windows: list[MPI.Win] = []
        self._flags: list[MPI.Win] = []
        self._barrier: Callable[[], object] = self._first_barrier

    def send(self, array: Buffer, dest: int, tag: int) -> Request:
        """Start to send ``array``."""
        self._meter.count_message(array)
        return self._comm.Isend(array, dest, tag)

    def receive(self, array: Buffer, source: int, tag: int) -> Request:
        """Start to receive into ``array``."""
        return self._comm.Irecv(array, source, tag)

    def receive_any(self, array: Buffer, tag: int) -> Arrival:
        """Start to receive into ``array`` from whoever sends first."""
        status = self._mpi.Status()
        return _Arrival(self._comm.Irecv(array, self._mpi.ANY_SOURCE, tag), status)

    def start_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> Request:
        """Start ``kind``."""
        self._meter.count_collective(kind, array, self.size, self.rank == root)
        return self._start(kind, array, counts, root)

    def _start(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> Request:
        comm, in_place = self._comm, self._mpi.IN_PLACE
        match kind:
            case CollectiveKind.ALLREDUCE:
                return comm.Iallreduce(in_place, array)
            case CollectiveKind.ALLGATHER:
                return comm.Iallgatherv(in_place, [array, counts])
            case CollectiveKind.REDUCE_SCATTER:
                start = sum(counts[: self.rank])
                share = np.empty(counts[self.rank], array.dtype)
                place = array[start : start + share.size]
                request = comm.Ireduce_scatter(array, share, counts)
                return _Finish(request, lambda: np.copyto(place, share))
            case CollectiveKind.BROADCAST:
                return comm.Ibcast(array, root)
            case CollectiveKind.REDUCE:
                if self.rank == root:
                    return comm.Ireduce(in_place, array, root=root)
                return comm.Ireduce(array, None, root=root)
            case CollectiveKind.BARRIER:
                return comm.Ibarrier()

    def run_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> None:
        """Do ``kind``; the blocking calls are a little faster than starting and waiting."""
        if kind is CollectiveKind.BARRIER:
            self._barrier()
            return
        self._meter.count_collective(kind, array, self.size, self.rank == root)
        if kind is CollectiveKind.ALLREDUCE:
            self._comm.Allreduce(self._mpi.IN_PLACE, array)
        elif kind is CollectiveKind.ALLGATHER:
            self._comm.Allgatherv(self._mpi.IN_PLACE, [array, counts])
        else:
            self._start(kind, array, counts, root).Wait()

    def _first_barrier(self) -> None:
        """Do a barrier, and make the one that is used from then on: of flags inside a node."""
        self._barrier = self._comm.Barrier
        if self.size > 1 and self.shareable_nbytes() > self.size * FLAG_ELEMENTS * 8:
            window, flags = self._share(FLAG_ELEMENTS, np.int64)
            window.Lock_all()  # MPI demands it of those who call Sync
            self._flags.append(window)
            cores = self._comm.allgather(usable_cores())
            is_crowded = len(frozenset().union(*cores)) < self.size
            self._barrier = flag_barrier(
                flags, self.rank, window.Sync, self._comm.Iprobe, is_crowded=is_crowded
            )
        self._comm.Barrier()

    def shareable_nbytes(self) -> int:
        """Return what is free where MPI puts windows, if all ranks are on one node."""
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        is_one_node = node.Get_size() == self.size
        node.Free()
        return int(min(self._comm.allgather(_free_nbytes() if is_one_node else 0)))

    def share(self, size: int, dtype: DTypeLike) -> list[Buffer]:
        """Return every rank's part of a shared-memory window."""
        itemsize = np.dtype(dtype).itemsize
        free, nbytes = self.shareable_nbytes(), sum(self._comm.allgather(size * itemsize))
        if not free:
            raise TransportError(
                f"shared memory needs all {self.size} ranks on one node, got several nodes; "
                f"start them on one node, or choose another strategy or algorithm"
            )
        if nbytes > free:  # MPI would say nothing, and the first to write there would be killed
            raise TransportError(
                f"shared memory needs {nbytes / 2**20:.1f} MiB in {_SHARED_DIRECTORY}, got "
                f"{free / 2**20:.1f} MiB free; make it larger (mount -o remount,size=), or choose "
                f"another strategy or algorithm"
            )
        window, arrays = self._share(size, dtype)
        self._windows.append(window)
        return arrays

    def _share(self, size: int, dtype: DTypeLike) -> "tuple[MPI.Win, list[Buffer]]":
        """Return a window, and every rank's part of it, zeroed."""
        itemsize = np.dtype(dtype).itemsize
        window = self._mpi.Win.Allocate_shared(size * itemsize, itemsize, comm=self._comm)
        arrays = [np.frombuffer(window.Shared_query(rank)[0], dtype) for rank in range(self.size)]
        arrays[self.rank][...] = 0
        self._comm.Barrier()
        return window, arrays

    def lock(self) -> Lock:
        """Return a lock over a window; MPI makes processes wait in turn."""
        return _WindowLock(self._mpi.Win.Allocate_shared(1, comm=self._comm))

    def check(self) -> None:
        """Do nothing: MPI kills this process when another ends the job."""

    def split(self, color: int) -> "MpiTransport":
        """Return the group of the ranks that name the same ``color``."""
        group: MPI.Intracomm = self._comm.Split(color, self.rank)  # type: ignore[assignment]  # of one
        return MpiTransport(group, self._mpi, self._meter)

    def close(self) -> None:
        """Free the communicator, of which MPI has about two thousand, and the memory shared over it."""
        for window in self._flags:
            window.Unlock_all()
        for window in (*self._flags, *self._windows):
            window.Free()
        self._comm.Free()

    def gather_objects(self, value: Value) -> list[Value]:
        """Return every rank's ``value``, on every rank."""
        return self._comm.allgather(value)

    def abort(self, message: str, status: int) -> NoReturn:
        """End the job: MPI kills every rank."""
        sys.stderr.write(message.rstrip("\n") + "\n")
        sys.stderr.flush()
        self._mpi.COMM_WORLD.Abort(status)
        raise TransportError(message)

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has handed to MPI."""
        return self._meter.nbytes

    @property
    def comm(self) -> "MPI.Intracomm":
        """The communicator, for the other file that knows MPI."""
        return self._comm

    @property
    def library(self) -> str:
        """The MPI library's name and version."""
        first = str(self._mpi.Get_library_version()).strip("\x00").splitlines()[0]
        return " ".join(first.split())
