"""Convolutions by cuDNN, through NVIDIA's cudnn-frontend: each bound one is a graph of one node.

cuDNN's heuristics choose the engine. Left out are engines that do not give the same bits twice, that
round to 16 bits, that need too much memory, or (Winograd, FFT) that add what no sum of products
has; and without TF32 all that use tensor cores, which have no float32.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from exec.device.array import DeviceArray
from exec.device.convolutions import Geometry
from exec.device.protocol import Call, Stream

if TYPE_CHECKING:
    from exec.device.cuda import CudaDevice
    from exec.device.cuda_streams import CudaStream

WORKSPACE_LIMIT_NBYTES = 256 << 20
INEXACT = (
    "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "NONDETERMINISTIC", "FFT", "WINOGRAD",
    "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13",
)  # fmt: skip


def open_convolutions(device: "CudaDevice") -> "CudnnConvolutions | None":
    """Return cuDNN's convolutions on ``device``; None if cudnn-frontend or cuDNN is not installed."""
    try:
        import cudnn  # noqa: PLC0415  # an extra

        version = str(cudnn.backend_version())  # loads the library
    except (ImportError, OSError, RuntimeError):
        return None
    return CudnnConvolutions(device, cudnn, version)


class CudnnConvolutions:
    """Binds convolutions of float32; holds a handle and a workspace for each stream."""

    def __init__(self, device: "CudaDevice", cudnn: Any, version: str) -> None:
        self._device, self._cudnn, self._version = device, cudnn, version
        self._handles: dict[int, Any] = {}
        self._workspaces: dict[int, DeviceArray] = {}

    @property
    def version(self) -> str:
        """cuDNN's version, as it numbers them: 91300 is 9.13.0."""
        return self._version

    def bind_forward(
        self, stream: Stream, image: DeviceArray, weight: DeviceArray, output: DeviceArray,
        geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        """Return a call that enqueues: ``output`` is ``image`` correlated with ``weight``."""
        of_image, of_weight, of_output = _extents(geometry)
        return self._bind(
            stream, "conv_fprop", {"image": (image, of_image), "weight": (weight, of_weight)},
            (output, of_output), geometry,
        )  # fmt: skip

    def bind_backward_weight(
        self, stream: Stream, image: DeviceArray, grad_output: DeviceArray,
        grad_weight: DeviceArray, geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        """Return a call that enqueues: ``grad_weight`` is the loss's gradient by the weight."""
        of_image, of_weight, of_output = _extents(geometry)
        return self._bind(
            stream, "conv_wgrad", {"image": (image, of_image), "loss": (grad_output, of_output)},
            (grad_weight, of_weight), geometry,
        )  # fmt: skip

    def bind_backward_input(
        self, stream: Stream, weight: DeviceArray, grad_output: DeviceArray,
        grad_image: DeviceArray, geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        """Return a call that enqueues: ``grad_image`` is the loss's gradient by the image."""
        of_image, of_weight, of_output = _extents(geometry)
        return self._bind(
            stream, "conv_dgrad", {"loss": (grad_output, of_output), "filter": (weight, of_weight)},
            (grad_image, of_image), geometry,
        )  # fmt: skip

    def close(self) -> None:
        """Give back the handles and workspaces."""
        for handle in self._handles.values():
            self._cudnn.destroy_handle(handle)
        self._handles.clear()
        self._workspaces.clear()

    def _bind(
        self, stream: Any, operation: str, factors: "dict[str, Described]", result: "Described",
        geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        for array, extents in (*factors.values(), result):
            if array.size != np.prod(extents):
                raise ValueError(f"array must have {np.prod(extents)} elements, got {array.size}")
            # cuDNN has no float64 convolutions of channels-last images.
            if array.dtype != np.float32:
                return None
        if any(array.size == 0 for array, _ in (*factors.values(), result)):
            return None
        handle = self._handle(stream)
        graph = build(
            self._cudnn, handle, operation, {port: extents for port, (_, extents) in factors.items()},
            result[1], geometry, is_tf32=self._device.is_tf32,
        )  # fmt: skip
        if graph is None:
            return None
        workspace = self._workspace(stream, int(graph.get_workspace_size()))
        inputs = {uid: array.pointer for uid, (array, _) in enumerate(factors.values(), 1)}
        pointers = {**inputs, RESULT_UID: result[0].pointer}
        # It loads its code now, not in a capture.
        scratch = self._device.empty(result[0].size, result[0].dtype)
        graph.execute({**inputs, RESULT_UID: scratch.pointer}, workspace.pointer, handle=handle)
        stream.synchronize()
        kept = (workspace, result, tuple(factors.values()))

        def call(_kept: object = kept) -> None:
            graph.execute(pointers, workspace.pointer, handle=handle)

        return call

    def _handle(self, stream: "CudaStream") -> Any:
        found = self._handles.get(stream.address)
        if found is None:
            found = self._handles[stream.address] = self._cudnn.create_handle()
            self._cudnn.set_stream(found, stream.address)
        return found

    def _workspace(self, stream: "CudaStream", nbytes: int) -> DeviceArray:
        """Return at least ``nbytes`` for what runs on ``stream``, one after another.

        It grows by powers of two; what is bound already keeps the smaller one.
        """
        found = self._workspaces.get(stream.address)
        if found is None or found.nbytes < nbytes:
            size = 1 << max(nbytes - 1, 0).bit_length()
            found = self._workspaces[stream.address] = self._device.empty(size, np.uint8)
        return found


Extents = tuple[int, int, int, int]
"""Samples or filters, channels, height, width: cuDNN's order, whatever the order in memory."""

Described = tuple[DeviceArray, Extents]
RESULT_UID = 3


def build(
    cudnn: Any, handle: Any, operation: str, factors: dict[str, Extents], result: Extents,
    geometry: Geometry, *, is_tf32: bool,
) -> Any:  # fmt: skip
    """Return the graph of one convolution, ready to run; None if no engine is left for it.

    The factors' uids are 1 and 2, in their order; that of the result is ``RESULT_UID``.
    """
    kind = cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=kind, intermediate_data_type=kind, compute_data_type=kind, handle=handle
    )
    given = {
        port: graph.tensor(
            dim=list(extents), stride=channels_last(extents), data_type=kind, name=port, uid=uid
        )
        for uid, (port, extents) in enumerate(factors.items(), 1)
    }
    output = getattr(graph, operation)(
        **given, padding=list(geometry.padding), stride=list(geometry.stride), dilation=[1, 1]
    )
    output.set_output(True)
    output.set_data_type(kind)
    output.set_uid(RESULT_UID)
    output.set_dim(list(result))
    output.set_stride(channels_last(result))
    notes = (*INEXACT, *(() if is_tf32 else ("TENSOR_CORE",)))
    try:
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes([getattr(cudnn.numerical_note, note) for note in notes])
        graph.deselect_workspace_greater_than(WORKSPACE_LIMIT_NBYTES)
        graph.check_support()
        graph.build_plans()
    except cudnn.cudnnGraphNotSupportedError:
        return None
    return graph


def channels_last(extents: Extents) -> list[int]:
    """Return the strides of an array whose channels lie side by side."""
    _, channels, height, width = extents
    return [height * width * channels, 1, width * channels, channels]


def _extents(geometry: Geometry) -> tuple[Extents, Extents, Extents]:
    """Return those of the images, the weights and the outputs."""
    height, width = (
        (length + 2 * padding - kernel) // stride + 1
        for length, padding, kernel, stride in zip(
            (geometry.height, geometry.width), geometry.padding, geometry.kernel, geometry.stride,
            strict=True,
        )
    )  # fmt: skip
    return (
        (geometry.samples, geometry.channels, geometry.height, geometry.width),
        (geometry.filters, geometry.channels, *geometry.kernel),
        (geometry.samples, geometry.filters, height, width),
    )
