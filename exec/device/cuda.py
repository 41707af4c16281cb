"""A GPU through CuPy: memory, streams, kernels; products by cuBLAS, convolutions by cuDNN.

The device is current in the thread that opened it, which is the one to use it. Ranks may be threads
of a process, several on one GPU: nothing here waits for more than the streams of its own device,
since CUDA refuses to wait for a whole GPU while another thread captures a graph on it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from exec.device import nccl
from exec.device.array import DeviceArray
from exec.device.convolutions import Convolutions
from exec.device.cublas import ProductRoute, Products, Tuning, open_products
from exec.device.cuda_kernels import Kernels, definitions_of
from exec.device.cuda_streams import CudaEvent, CudaStream
from exec.device.cudnn_graphs import open_convolutions
from exec.device.group import Group
from exec.device.protocol import Event, Host
from exec.errors import DeviceError

INSTALL = "install it with pip install 'stepcast[gpu]', or use --device cpu"


def open_cuda(
    index: int, sources: Path | Sequence[Path], *, is_tf32: bool,
    route: ProductRoute = ProductRoute.CUBLASLT, tuning: Tuning | None = None,
) -> "CudaDevice":  # fmt: skip
    """Return the GPU number ``index`` of those that CUDA shows, with the kernels of ``sources``.

    ``tuning`` says which algorithms products use, and learns more where it may.

    Raises:
        DeviceError: CuPy, the driver, the GPU, NVRTC or (unless ``route`` is own) nvmath-python or
            cuBLAS is missing.
    """
    # CUDA's default is 8 queues from host to GPU: streams that share one wait for each other, and a
    # bucket's all-reduce would wait for the backward pass. 32 is the most. It is read once, when a
    # process first uses the GPU.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    cupy = _load_cupy()
    _check_gpu(cupy.cuda.runtime, index)
    _check_nvrtc(cupy)
    cupy.cuda.Device(index).use()
    return CudaDevice(cupy, index, Kernels(cupy, definitions_of(sources)), is_tf32=is_tf32,
                      route=route, tuning=tuning)  # fmt: skip


def _load_cupy() -> Any:
    try:
        import cupy  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise DeviceError(f"--device gpu needs CuPy ({_line(error)}); {INSTALL}") from error
    return cupy


def _check_gpu(runtime: Any, index: int) -> None:
    if runtime.driverGetVersion() == 0:  # what CUDA says where there is no driver
        raise DeviceError(
            "--device gpu needs NVIDIA's driver, found none; install driver 580 or newer "
            "on a machine with an NVIDIA GPU, or use --device cpu"
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        supported = cuda_version(runtime.driverGetVersion())
        raise DeviceError(
            f"--device gpu needs a driver that shows a GPU, got: {error} (the driver is for CUDA "
            f"{supported}, CuPy for {cuda_version(runtime.runtimeGetVersion())}); install driver 580 or newer, "
            "or use --device cpu"
        ) from error
    if not 0 <= index < count:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if shown is None else f" (CUDA_VISIBLE_DEVICES is {shown!r})"
        raise DeviceError(
            f"GPU must be one of the {count} that CUDA shows{hint}, counted from 0, got {index}; "
            "start fewer ranks on this node, or use --device cpu"
        )


def count_gpus() -> int:
    """Return how many GPUs CUDA shows.

    Raises:
        DeviceError: CuPy, the driver or a GPU is missing.
    """
    cupy = _load_cupy()
    _check_gpu(cupy.cuda.runtime, 0)
    return int(cupy.cuda.runtime.getDeviceCount())


def _check_nvrtc(cupy: Any) -> None:
    try:
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(f"--device gpu needs NVRTC ({_line(error)}); {INSTALL}") from error


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def cuda_version(number: int) -> str:
    """Return CUDA's number of a version as it is written.

    >>> cuda_version(13020)
    '13.2'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


class CudaDevice:
    """A GPU, seen by one rank."""

    def __init__(
        self, cupy: Any, index: int, kernels: Kernels, *, is_tf32: bool,
        route: ProductRoute = ProductRoute.CUBLASLT, tuning: Tuning | None = None,
    ) -> None:  # fmt: skip
        self.cupy, self.index, self.kernels = cupy, index, kernels
        self._is_tf32 = is_tf32
        self._runtime = cupy.cuda.runtime
        self._properties: Mapping[str, Any] = self._runtime.getDeviceProperties(index)
        self._streams: list[CudaStream] = []
        # Host and GPU exchange here what is not enqueued by others. It never is the legacy default
        # stream: that may not be used while another thread captures.
        self._exchange = CudaStream(self)
        self.products: Products = open_products(self, route, tuning)
        self._convolutions = open_convolutions(self)

    @property
    def name(self) -> str:
        """What it is called, such as NVIDIA H100 80GB HBM3."""
        return bytes(self._properties["name"]).decode()

    @property
    def address(self) -> str:
        """What tells it from all others of its node: its PCI bus id."""
        return str(self._runtime.deviceGetPCIBusId(self.index))

    @property
    def num_multiprocessors(self) -> int:
        """How many blocks can run at once, at least."""
        return int(self._properties["multiProcessorCount"])

    @property
    def is_tf32(self) -> bool:
        """Whether products of float32 round their factors to TF32's 10 bits."""
        return self._is_tf32

    @property
    def convolutions(self) -> Convolutions | None:
        """cuDNN's convolutions; None where cuDNN is not installed."""
        return self._convolutions

    @property
    def software(self) -> dict[str, str]:
        """The versions on which times depend."""
        found = {
            "driver": f"CUDA {cuda_version(self._runtime.driverGetVersion())}",
            "runtime": f"CUDA {cuda_version(self._runtime.runtimeGetVersion())}",
            "nvrtc": ".".join(map(str, self.cupy.cuda.nvrtc.getVersion())),
            "cupy": str(self.cupy.__version__),
            **self.products.software,
            "cudnn": "none" if self._convolutions is None else self._convolutions.version,
            "nccl": nccl.nccl_version(),
        }
        module = Path(
            "/proc/driver/nvidia/version"
        )  # NVIDIA driver's README, The /proc file system
        if module.exists():
            words = module.read_text("utf-8").splitlines()[0].split()
            numbers = [word for word in words if word[:1].isdigit() and "." in word]
            found["driver"] += f", module {numbers[0]}" if numbers else ""
        return found

    def memory(self) -> tuple[int, int]:
        """Return the bytes of memory that are free, and all."""
        free, total = self._runtime.memGetInfo()
        return int(free), int(total)

    def stream(self) -> CudaStream:
        """Return a new stream, ordered with no other."""
        made = CudaStream(self)
        self._streams.append(made)
        return made

    def empty(self, size: int, dtype: DTypeLike) -> DeviceArray:
        """Return ``size`` elements of whatever was there.

        They come from cudaMalloc, not from CuPy's pool: the pool gives memory away again as soon as
        its array is dropped, in the order of CuPy's current stream. Ours are others, on which a
        kernel may still use it. cudaFree waits for it.

        Raises:
            DeviceError: there is not enough memory.
        """
        kind = np.dtype(dtype)
        nbytes = size * kind.itemsize
        try:
            memory = self.cupy.cuda.Memory(nbytes)
        except self._runtime.CUDARuntimeError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            free, total = self.memory()
            raise DeviceError(
                f"GPU memory must hold {nbytes:,} more bytes, got {free:,} free of {total:,}; "
                "take a smaller batch or network, or more ranks"
            ) from error
        return DeviceArray(memory, int(memory.ptr), (size,), kind)

    def upload(self, host: Host) -> DeviceArray:
        """Return a copy of ``host``, of its shape, that any stream may use at once."""
        array = self.empty(host.size, host.dtype).reshape(*host.shape)
        self._transfer(array.pointer, np.ascontiguousarray(host), is_upload=True)
        return array

    def write(self, array: DeviceArray, host: Host) -> None:
        """Set ``array`` to ``host`` once all streams are done; any stream may use it at once."""
        if array.is_transposed or array.shape != host.shape or array.dtype != host.dtype:
            raise ValueError(
                f"host must be {array.shape} of {array.dtype}, got {host.shape} of {host.dtype}"
            )
        self.synchronize()
        self._transfer(array.pointer, np.ascontiguousarray(host), is_upload=True)

    def read(self, array: DeviceArray) -> Host:
        """Return a copy of ``array`` once all streams are done."""
        self.synchronize()
        stored = array.T if array.is_transposed else array
        host: Host = np.empty(stored.shape, array.dtype)
        self._transfer(array.pointer, host, is_upload=False)
        return host.T if array.is_transposed else host

    def pinned(self, size: int, dtype: DTypeLike) -> Host:
        """Return host memory that streams can copy from and to.

        It is not from CuPy's pool either, for the same reason as in ``empty``.
        """
        kind = np.dtype(dtype)
        if size == 0:
            return np.empty(0, kind)
        cuda = self.cupy.cuda
        # Portable: pinned for every GPU of this process, whose ranks may be threads.
        memory = cuda.PinnedMemory(size * kind.itemsize, self._runtime.hostAllocPortable)
        return np.frombuffer(cuda.PinnedMemoryPointer(memory, 0), kind, size)

    def elapsed_s(self, start: Event, end: Event) -> float:
        """Return the time between two timed events that are done."""
        assert isinstance(start, CudaEvent)
        assert isinstance(end, CudaEvent)
        milliseconds = self.cupy.cuda.get_elapsed_time(start.event, end.event)
        return float(milliseconds) / 1e3

    def synchronize(self) -> None:
        """Return when all streams are done."""
        for stream in self._streams:
            stream.synchronize()

    def new_group_id(self) -> bytes:
        """Return what names a new group of ranks: one rank makes it and tells the others.

        Raises:
            DeviceError: NCCL is missing.
        """
        return nccl.new_group_id()

    def join_group(self, id: bytes, rank: int, size: int) -> Group:
        """Return the group ``id``, of ``size`` ranks on as many GPUs, of which this is ``rank``.

        Raises:
            DeviceError: NCCL is missing, or refuses.
        """
        return nccl.join_group(self, id, rank, size)

    def close(self) -> None:
        """Give back what it holds; arrays of it must not be used any more."""
        self.synchronize()
        self.products.close()
        if self._convolutions is not None:
            self._convolutions.close()
        self._streams.clear()

    def _transfer(self, pointer: int, host: Host, *, is_upload: bool) -> None:
        if host.nbytes == 0:
            return
        ends = (pointer, host.ctypes.data) if is_upload else (host.ctypes.data, pointer)
        kind = self._runtime.memcpyHostToDevice if is_upload else self._runtime.memcpyDeviceToHost
        self._runtime.memcpyAsync(*ends, host.nbytes, kind, self._exchange.address)
        # A copy from pageable memory may return before the GPU has the numbers (CUDA runtime API,
        # API synchronization behavior).
        self._exchange.synchronize()


_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
