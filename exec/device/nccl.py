"""Groups of GPUs by NCCL, through CuPy: the one file that knows it.

Calls of a group are enqueued on the streams they are given and can be captured in a graph. A group
is made by all its ranks at once; NCCL wants a GPU for each. ``check`` and ``abort`` may be called by
a thread that watches, while the rank's own thread waits for a stream: CuPy lets others run then.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from exec.device.array import DeviceArray
from exec.device.cuda_streams import CudaStream
from exec.device.protocol import Stream
from exec.errors import DeviceError

if TYPE_CHECKING:
    from exec.device.cuda import CudaDevice

Result = TypeVar("Result")

_INSTALL = (
    "install it with pip install 'nvidia-nccl-cu13>=2.27.7,<2.31' (it is in stepcast[gpu]), or use "
    "--transport mpi, which stages messages through the host"
)


def _load_nccl() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # CuPy warns where NCCL is missing; the message below says so
            from cupy.cuda import nccl  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise DeviceError(f"groups of GPUs need CuPy and NCCL ({error}); {_INSTALL}") from error
    if not nccl.available:
        raise DeviceError(f"groups of GPUs need NCCL, which cannot be loaded; {_INSTALL}")
    return nccl


def nccl_version() -> str:
    """Return NCCL's version; none where it is not installed."""
    try:
        return _version(_load_nccl())
    except DeviceError:
        return "none"


def _version(nccl: Any) -> str:
    number = int(nccl.get_version())
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def new_group_id() -> bytes:
    """Return what names a new group of ranks: 128 bytes, with the address of this process.

    Raises:
        DeviceError: NCCL is missing, or finds no network to be reached by.
    """
    nccl = _load_nccl()
    return bytes(_reported(nccl, "cannot begin a group", nccl.get_unique_id))


def join_group(device: "CudaDevice", id: bytes, rank: int, size: int) -> "NcclGroup":
    """Return the group ``id`` once all its ranks have come.

    Raises:
        DeviceError: NCCL is missing, or refuses.
    """
    nccl = _load_nccl()
    what = f"refuses rank {rank} of {size} on GPU {device.address}"
    made = _reported(nccl, what, lambda: nccl.NcclCommunicator(size, id, rank))
    return NcclGroup(nccl, made, device, rank, size)


def _reported(nccl: Any, what: str, call: Callable[[], Result]) -> Result:
    """Return ``call()``; if NCCL fails, raise a :class:`DeviceError` that says so."""
    try:
        return call()
    except nccl.NcclError as error:
        raise DeviceError(f"NCCL {what}: {error}") from error


class NcclGroup:
    """The ranks of a group, seen from one."""

    def __init__(self, nccl: Any, made: Any, device: "CudaDevice", rank: int, size: int) -> None:
        self._nccl, self._made, self._device = nccl, made, device
        self._rank, self._size = rank, size
        self._is_lost = self._is_closed = False
        self._checking = threading.Lock()  # so that nobody checks what is no longer there
        self._codes = {
            "float32": nccl.NCCL_FLOAT32,
            "float64": nccl.NCCL_FLOAT64,
            "int32": nccl.NCCL_INT32,
            "int64": nccl.NCCL_INT64,
        }

    @property
    def rank(self) -> int:
        """This rank."""
        return self._rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self._size

    @property
    def library(self) -> str:
        """The name and version of NCCL."""
        return f"NCCL {_version(self._nccl)}"

    def allreduce(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set ``array`` on all ranks to the sum of all ranks'."""
        place, code = array.pointer, self._code(array)
        sum_ = self._nccl.NCCL_SUM
        self._call(self._made.allReduce, place, place, array.size, code, sum_, _address(stream))

    def reduce(self, array: DeviceArray, root: int, stream: Stream) -> None:
        """Enqueue: set ``array`` on ``root`` to the sum of all ranks'; the others' stay."""
        place, code = array.pointer, self._code(array)
        sum_ = self._nccl.NCCL_SUM
        self._call(self._made.reduce, place, place, array.size, code, sum_, root, _address(stream))

    def broadcast(self, array: DeviceArray, root: int, stream: Stream) -> None:
        """Enqueue: set ``array`` on all ranks to that of ``root``."""
        place, code = array.pointer, self._code(array)
        self._call(self._made.broadcast, place, place, array.size, code, root, _address(stream))

    def allgather(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set each rank's share of ``array`` on all ranks to its own; shares are equal."""
        share, code = self._share(array), self._code(array)
        place, whole = share.pointer, array.pointer
        self._call(self._made.allGather, place, whole, share.size, code, _address(stream))

    def reduce_scatter(self, array: DeviceArray, stream: Stream) -> None:
        """Enqueue: set this rank's share of ``array`` to the sum of all ranks'; shares are equal."""
        share, code = self._share(array), self._code(array)
        place, whole, sum_ = share.pointer, array.pointer, self._nccl.NCCL_SUM
        self._call(self._made.reduceScatter, whole, place, share.size, code, sum_, _address(stream))

    def send(self, array: DeviceArray, peer: int, stream: Stream) -> None:
        """Enqueue: send ``array`` to ``peer``."""
        place, code = array.pointer, self._code(array)
        self._call(self._made.send, place, array.size, code, peer, _address(stream))

    def receive(self, array: DeviceArray, peer: int, stream: Stream) -> None:
        """Enqueue: receive into ``array`` what ``peer`` sends."""
        place, code = array.pointer, self._code(array)
        self._call(self._made.recv, place, array.size, code, peer, _address(stream))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one op of the calls inside."""
        self._call(self._nccl.groupStart)
        try:
            yield
        finally:
            self._call(self._nccl.groupEnd)

    def check(self) -> None:
        """Raise if something that was enqueued has failed."""
        with self._checking:
            if self._is_lost:
                raise DeviceError(
                    f"NCCL has lost rank {self._rank} of {self._size}: it was aborted"
                )
            if not self._is_closed:
                self._call(self._made.check_async_error)

    def abort(self) -> None:
        """End what is under way; the group is lost."""
        with self._checking:
            is_first = not (self._is_lost or self._is_closed)
            self._is_lost = self._is_lost or is_first
        if is_first:
            self._made.abort()

    def close(self) -> None:
        """Give the group back once all that was enqueued is done."""
        if not self._is_lost:
            self._device.synchronize()
        with self._checking:
            is_first = not (self._is_lost or self._is_closed)
            self._is_closed = True
        if is_first:
            self._made.destroy()

    def _share(self, array: DeviceArray) -> DeviceArray:
        if array.size % self._size:
            raise ValueError(
                f"array must have a multiple of {self._size} elements, got {array.size}"
            )
        each = array.size // self._size
        return array.reshape(array.size)[self._rank * each : (self._rank + 1) * each]

    def _code(self, array: DeviceArray) -> int:
        if array.dtype.name not in self._codes or array.is_transposed:
            raise ValueError(f"array must be rows of {', '.join(self._codes)}, got {array.dtype}")
        return int(self._codes[array.dtype.name])

    def _call(self, call: Callable[..., object], *arguments: int) -> None:
        what = f"has failed on rank {self._rank} of {self._size}"
        _reported(self._nccl, what, lambda: call(*arguments))


def _address(stream: Stream) -> int:
    assert isinstance(stream, CudaStream)
    return stream.address
