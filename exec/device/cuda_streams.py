"""Streams, events and graphs of a GPU.

A graph uses the workspaces of the streams on which it was captured: launch it on the stream that
captured it, or when that one is idle. What runs for the first time may load code, which may wait
for the whole GPU: run a step once before it is captured.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.cuda_kernels import do_nothing
from exec.device.protocol import Argument, Call, Event, Graph, Host, Stream

if TYPE_CHECKING:
    from exec.device.cuda import CudaDevice

SUCCESS, NOT_READY = 0, 600  # cudaSuccess, cudaErrorNotReady


class CudaEvent:
    """A point in a stream."""

    def __init__(self, runtime: Any, event: Any) -> None:
        self._runtime = runtime
        self.event = event  # a cupy.cuda.Event, which frees what it holds

    def is_done(self) -> bool:
        """Say whether the stream has come past it.

        Raises:
            CUDARuntimeError: what the stream did has failed. (CuPy's ``done`` says False then, for
                ever, and a loop that polls it would never end.)
        """
        status = self._runtime.eventQuery(self.event.ptr)
        if status not in (SUCCESS, NOT_READY):
            self._runtime.check_status(status)
        return bool(status == SUCCESS)

    def synchronize(self) -> None:
        """Return when it has."""
        self.event.synchronize()


class CudaGraph:
    """Work that is enqueued as a whole; ``kept`` is what it refers to."""

    def __init__(self, graph: Any, kept: object) -> None:
        self._graph, self._kept = graph, kept

    def launch(self, stream: Stream) -> None:
        """Enqueue it."""
        assert isinstance(stream, CudaStream)
        self._graph.launch(stream.stream)


class CudaStream:
    """An in-order queue of a GPU."""

    def __init__(self, device: "CudaDevice") -> None:
        self._device, self._cupy = device, device.cupy
        self._runtime = device.cupy.cuda.runtime
        # It does not wait for the legacy default stream, which libraries may use.
        self.stream = device.cupy.cuda.Stream(non_blocking=True)
        self.address = int(self.stream.ptr)

    @property
    def device(self) -> "CudaDevice":
        """Whose it is."""
        return self._device

    def record(self, *, is_timed: bool = False) -> Event:
        """Return the point behind all that has been enqueued; ``is_timed`` notes when it is passed."""
        event = self._cupy.cuda.Event(disable_timing=not is_timed)
        self.stream.record(event)
        return CudaEvent(self._runtime, event)

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for ``event``; the host goes on."""
        assert isinstance(event, CudaEvent)
        self.stream.wait_event(event.event)

    def synchronize(self) -> None:
        """Return when all that has been enqueued is done."""
        self.stream.synchronize()

    def bind_kernel(
        self, name: str, dtype: DTypeLike, grid: Sequence[int], block: Sequence[int], *arguments: Argument
    ) -> Call:  # fmt: skip
        """Return a call that enqueues the kernel ``name`` of the device's sources.

        Raises:
            ValueError: there is none, or the arguments are not those of its parameters.
        """
        return self._device.kernels.bind(self.address, name, dtype, grid, block, arguments)

    def bind_product(
        self, a: DeviceArray, b: DeviceArray, c: DeviceArray, *, alpha: float = 1.0, beta: float = 0.0,
        leading: tuple[int, int, int] | None = None,
    ) -> Call:  # fmt: skip
        """Return a call that enqueues ``c = alpha a b + beta c`` of matrices; ``c`` has rows."""
        return self._device.products.bind(self, a, b, c, alpha, beta, leading)

    def bind_copy(self, source: DeviceArray | Host, target: DeviceArray | Host) -> Call:
        """Return a call that enqueues a copy; what is on the host must be ``pinned``."""
        for end in (source, target):
            self._check_end(end)
        if source.dtype != target.dtype or source.size != target.size:
            raise ValueError(
                f"target must be {source.size} of {source.dtype}, got {target.size} of {target.dtype}"
            )
        if source.nbytes == 0:
            return do_nothing
        copy, nbytes, stream = self._runtime.memcpyAsync, source.nbytes, self.address
        start, end_ = _address(source), _address(target)
        # With unified addresses the driver sees from the addresses which way it is, also between
        # two GPUs (CUDA runtime API, cudaMemcpyDefault).
        kind = self._runtime.memcpyDefault

        def call(_kept: object = (source, target)) -> None:
            copy(end_, start, nbytes, kind, stream)

        return call

    def bind_fill(self, array: DeviceArray, value: float) -> Call:
        """Return a call that enqueues the filling of ``array``.

        Raises:
            ValueError: only float32, float64 and int32 can be filled with what is not zero.
        """
        if array.nbytes == 0:
            return do_nothing
        if value == 0:
            fill, pointer, nbytes, stream = (
                self._runtime.memsetAsync,
                array.pointer,
                array.nbytes,
                self.address,
            )

            def call(_kept: object = array) -> None:
                fill(pointer, 0, nbytes, stream)

            return call
        grid, block = (min(-(-array.size // 256), 65535),), (256,)
        if array.dtype == np.int32:
            return self.bind_kernel(
                "fill_int", np.float32, grid, block, array, array.size, int(value)
            )
        return self.bind_kernel("fill", array.dtype, grid, block, array, array.size, float(value))

    def capture(self, body: Call) -> Graph:
        """Return all that ``body`` enqueues, here and on streams that wait for this one, undone.

        Raises:
            RuntimeError: what ``body`` did cannot be captured, or a stream that waited for this one
                has not been waited for.
        """
        error_type = self._runtime.CUDARuntimeError
        # Relaxed, CuPy's default: other threads may go on and allocate.
        self.stream.begin_capture()
        try:
            body()
        except BaseException as failure:
            # The stream must not stay in capture; the failure of the body is the one to tell.
            try:
                self._runtime.graphDestroy(self._runtime.streamEndCapture(self.address))
            except error_type as second:
                failure.add_note(f"the capture was ended: {second}")
            raise
        try:
            graph = self.stream.end_capture()
        except error_type as failure:
            raise RuntimeError(
                "a capture must enqueue only, and wait for every stream that it made wait; "
                f"CUDA says: {failure}"
            ) from failure
        graph.upload(self.stream)  # else the first launch would do it
        return CudaGraph(graph, body)

    def _check_end(self, end: DeviceArray | Host) -> None:
        if isinstance(end, DeviceArray):
            if end.is_transposed:
                raise ValueError("array must not be transposed")
        elif not end.flags.c_contiguous or (
            end.nbytes
            and self._runtime.pointerGetMemoryType(end.ctypes.data) != self._runtime.memoryTypeHost
        ):
            raise ValueError("host memory must be pinned and contiguous; make it by Device.pinned")


def _address(end: DeviceArray | Host) -> int:
    return end.pointer if isinstance(end, DeviceArray) else int(end.ctypes.data)
