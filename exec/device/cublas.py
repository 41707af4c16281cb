"""Products of matrices on a GPU: by cuBLASLt, by cuBLAS, or by our own kernel for small ones.

CuPy refuses to call its cuBLAS while a graph is captured; through nvmath-python's bindings with
workspaces of our own, both can be captured (cuBLAS documentation, CUDA Graphs Support). A workspace
for each stream also makes results repeat bit by bit (there, Results Reproducibility).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from exec.device.array import DeviceArray
from exec.device.cuda_kernels import do_nothing
from exec.device.gemm import Factor, Gemm, gemm_of
from exec.device.product_choice import (
    Choice,
    ProductRoute,
    Tuning,
    alignment_of,
    choice_key,
)
from exec.device.protocol import Call
from exec.errors import DeviceError

if TYPE_CHECKING:
    from exec.device.cuda import CudaDevice
    from exec.device.cuda_streams import CudaStream

__all__ = ["ProductRoute", "Products", "Tuning", "open_products"]

# cuBLAS documentation, cublasSetWorkspace: 32 MiB on Hopper and newer, 4 MiB before.
WORKSPACE_NBYTES, OLDER_WORKSPACE_NBYTES = 32 << 20, 4 << 20
REPETITIONS = 10  # of each algorithm when it is timed


def open_products(device: "CudaDevice", route: ProductRoute, tuning: Tuning | None) -> "Products":
    """Return what binds products on ``device``.

    Raises:
        DeviceError: nvmath-python, cuBLAS or the driver is missing, unless ``route`` is own.
    """
    if route is ProductRoute.OWN:
        return Products(device, route, None, None, Tuning(num_candidates=0))
    if tuning is None:
        tuning = Tuning(num_candidates=8 if route is ProductRoute.AUTO else 0)
    how = "install it with pip install 'stepcast[gpu]', or use --device cpu"
    try:
        from nvmath.bindings import cublas, cublasLt  # noqa: PLC0415  # an extra

        cublasLt.get_version()  # loads the library
    except ImportError as error:
        raise DeviceError(f"--device gpu needs nvmath-python ({error}); {how}") from error
    except RuntimeError as error:  # pathfinder's and nvmath's, when they find no library
        line = str(error).strip().splitlines()[0]
        raise DeviceError(f"--device gpu needs cuBLAS ({line}); {how}") from error
    return Products(device, route, cublas, cublasLt, tuning)


class Products:
    """Binds products; holds a handle of cuBLASLt, and for each stream a workspace."""

    def __init__(
        self, device: "CudaDevice", route: ProductRoute, cublas: Any, lt: Any, tuning: Tuning
    ) -> None:
        self.tuning = tuning
        self._device, self._route, self._cublas, self._lt = device, route, cublas, lt
        self._handle = None if lt is None else lt.create()
        self._workspaces: dict[int, DeviceArray] = {}
        self._stream_handles: dict[int, int] = {}
        major = int(device.cupy.cuda.Device(device.index).compute_capability[:-1])
        self._workspace_nbytes = WORKSPACE_NBYTES if major >= 9 else OLDER_WORKSPACE_NBYTES

    @property
    def software(self) -> dict[str, str]:
        """The version of cuBLAS, and which way products go."""
        version = "none" if self._lt is None else str(self._lt.get_version())
        return {"cublas": version, "products": str(self._route)}

    def bind(
        self, stream: "CudaStream", a: DeviceArray, b: DeviceArray, c: DeviceArray,
        alpha: float, beta: float, leading: tuple[int, int, int] | None,
    ) -> Call:  # fmt: skip
        """Return a call that enqueues ``c = alpha a b + beta c``.

        Raises:
            ValueError: they do not fit.
            DeviceError: a choice that was made elsewhere is not offered here.
        """
        gemm = gemm_of(a, b, c, leading)
        if gemm.m == 0 or gemm.n == 0:
            return do_nothing
        if gemm.k == 0:  # then c = beta c, of which libraries say nothing
            return self._bind_choice(stream, gemm, a, b, c, alpha, beta, Choice(ProductRoute.OWN))
        choice = self._choose(stream, gemm, a, b, c, alpha, beta)
        call = self._bind_choice(stream, gemm, a, b, c, alpha, beta, choice)
        # A library loads a kernel when it is first used, and that may wait for the whole GPU: not
        # to happen in a capture, nor while NCCL's kernels wait for another rank.
        self._bind_choice(stream, gemm, a, b, self._scratch(gemm, c), alpha, beta, choice)()
        stream.synchronize()
        return call

    def close(self) -> None:
        """Give back the handles and workspaces."""
        for handle in self._stream_handles.values():
            self._cublas.destroy(handle)
        if self._handle is not None:
            self._lt.destroy(self._handle)
        self._handle = None
        self._stream_handles.clear()
        self._workspaces.clear()

    def _choose(
        self, stream: "CudaStream", gemm: Gemm, a: DeviceArray, b: DeviceArray, c: DeviceArray,
        alpha: float, beta: float,
    ) -> Choice:  # fmt: skip
        key = choice_key(gemm, is_tf32=self._device.is_tf32, is_added=beta != 0)
        known = self.tuning.choices.get(key)
        if known is not None:
            return known
        if self.tuning.num_candidates == 0:
            return next(self._candidates(gemm, self._route, 1))
        scratch = self._scratch(gemm, c)
        timed = [
            (self._time_s(stream, self._bind_choice(stream, gemm, a, b, scratch, alpha, beta, each)), index, each)
            for index, each in enumerate(self._candidates(gemm, self._route, self.tuning.num_candidates))
        ]  # fmt: skip
        self.tuning.choices[key] = min(timed)[2]
        return self.tuning.choices[key]

    def _candidates(self, gemm: Gemm, route: ProductRoute, count: int) -> Iterator[Choice]:
        """Yield what may be fastest, what is expected to be so first."""
        if route in (ProductRoute.CUBLASLT, ProductRoute.AUTO):
            for algorithm in self._algorithms(gemm, count):
                yield Choice(ProductRoute.CUBLASLT, algorithm)
        if route in (ProductRoute.CUBLAS, ProductRoute.AUTO):
            yield Choice(ProductRoute.CUBLAS)
        if route in (ProductRoute.OWN, ProductRoute.AUTO):
            yield Choice(ProductRoute.OWN)

    def _time_s(self, stream: "CudaStream", call: Call) -> float:
        call()
        start = stream.record(is_timed=True)
        for _ in range(REPETITIONS):
            call()
        end = stream.record(is_timed=True)
        end.synchronize()
        return self._device.elapsed_s(start, end) / REPETITIONS

    def _scratch(self, gemm: Gemm, c: DeviceArray) -> DeviceArray:
        """Return memory that lies like ``c``, to be spoilt."""
        size = (gemm.n - 1) * gemm.c_leading + gemm.m
        whole = self._device.empty(size, c.dtype)
        return DeviceArray(whole.memory, whole.pointer, c.shape, c.dtype)

    def _bind_choice(
        self, stream: "CudaStream", gemm: Gemm, a: DeviceArray, b: DeviceArray, c: DeviceArray,
        alpha: float, beta: float, choice: Choice,
    ) -> Call:  # fmt: skip
        match choice.route:
            case ProductRoute.OWN:
                return self._bind_own(stream, gemm, a, b, c, alpha, beta)
            case ProductRoute.CUBLAS:
                return self._bind_cublas(stream, gemm, (a, b, c), alpha, beta)
            case _:
                return self._bind_lt(stream, gemm, (a, b, c), alpha, beta, choice.algorithm)

    def _bind_own(
        self, stream: "CudaStream", gemm: Gemm, a: DeviceArray, b: DeviceArray, c: DeviceArray,
        alpha: float, beta: float,
    ) -> Call:  # fmt: skip
        """Return a launch of our kernel, with large tiles if they are enough for the whole GPU."""
        rows, columns = gemm.n, gemm.m  # of c as it has rows
        tiles = {side: -(-rows // side) * -(-columns // side) for side in (16, 64)}
        side = 64 if tiles[64] >= self._device.num_multiprocessors else 16
        of_a, of_b = _distances(gemm.right), _distances(gemm.left)
        return self._device.kernels.bind(
            stream.address, f"product_{side}", c.dtype, (tiles[side],), (256,),
            (a, b, c, rows, columns, gemm.k, *of_a, *of_b, gemm.c_leading, float(alpha), float(beta)),
        )  # fmt: skip

    def _bind_cublas(
        self, stream: "CudaStream", gemm: Gemm, arrays: tuple[DeviceArray, ...], alpha: float, beta: float
    ) -> Call:  # fmt: skip
        handle, kind, compute = self._stream_handle(stream), self._kind(gemm), self._compute(gemm)
        left, right = gemm.left, gemm.right
        scalars = np.array([alpha, beta], gemm.dtype)
        at_alpha = scalars.ctypes.data
        given = (
            handle, self._flag(left), self._flag(right), gemm.m, gemm.n, gemm.k, at_alpha,
            left.pointer, kind, left.leading, right.pointer, kind, right.leading,
            at_alpha + scalars.itemsize, gemm.c, kind, gemm.c_leading, compute,
            int(self._cublas.GemmAlgo.DFALT),
        )  # fmt: skip
        return _calling(self._cublas.gemm_ex, given, (arrays, scalars))

    def _bind_lt(
        self, stream: "CudaStream", gemm: Gemm, arrays: tuple[DeviceArray, ...], alpha: float,
        beta: float, algorithm: bytes,
    ) -> Call:  # fmt: skip
        lt, workspace = self._lt, self._workspace(stream)
        described = _Described(lt, gemm, self._kind(gemm), self._compute(gemm))
        chosen = np.frombuffer(bytearray(algorithm), np.uint8)
        self._check_algorithm(described, chosen)
        scalars = np.array([alpha, beta], gemm.dtype)
        at_alpha, left, right = scalars.ctypes.data, gemm.left, gemm.right
        given = (
            self._handle, described.product, at_alpha, left.pointer, described.left, right.pointer,
            described.right, at_alpha + scalars.itemsize, gemm.c, described.c, gemm.c, described.c,
            chosen.ctypes.data, workspace.pointer, workspace.nbytes, stream.address,
        )  # fmt: skip
        return _calling(lt.matmul, given, (arrays, scalars, chosen, described, workspace))

    def _algorithms(self, gemm: Gemm, count: int) -> list[bytes]:
        """Return what cuBLASLt's heuristics propose, the best first.

        Raises:
            RuntimeError: nothing can do it, which happens to no product of dense matrices.
        """
        lt = self._lt
        described = _Described(lt, gemm, self._kind(gemm), self._compute(gemm))
        proposed = np.zeros(count, lt.matmul_heuristic_result_dtype)
        found = np.zeros(1, np.int32)
        preference = lt.matmul_preference_create()
        try:
            wanted = lt.MatmulPreferenceAttribute
            # Arrays may begin anywhere in a flat buffer; what is not said is taken to be aligned
            # to 256 bytes (cuBLAS documentation, cublasLtMatmulPreferenceAttributes_t).
            for attribute, value in {
                wanted.MAX_WORKSPACE_BYTES: self._workspace_nbytes,
                wanted.MIN_ALIGNMENT_A_BYTES: alignment_of(gemm.left.pointer),
                wanted.MIN_ALIGNMENT_B_BYTES: alignment_of(gemm.right.pointer),
                wanted.MIN_ALIGNMENT_C_BYTES: alignment_of(gemm.c),
                wanted.MIN_ALIGNMENT_D_BYTES: alignment_of(gemm.c),
            }.items():
                kind = lt.get_matmul_preference_attribute_dtype(attribute)
                _set(lt.matmul_preference_set_attribute, preference, attribute, kind, value)
            lt.matmul_algo_get_heuristic(
                self._handle, described.product, described.left, described.right, described.c,
                described.c, preference, count, proposed.ctypes.data, found.ctypes.data,
            )  # fmt: skip
        finally:
            lt.matmul_preference_destroy(preference)
        usable = [
            each["algo"].tobytes() for each in proposed[: int(found[0])] if each["state"] == 0
        ]
        if not usable:
            raise RuntimeError(f"cuBLASLt must know how to multiply, got nothing for {gemm}")
        return usable

    def _check_algorithm(self, described: "_Described", algorithm: Any) -> None:
        """Raise DeviceError unless cuBLASLt can use ``algorithm`` here, in the workspace there is."""
        lt = self._lt
        result = np.zeros(1, lt.matmul_heuristic_result_dtype)
        try:
            lt.matmul_algo_check(
                self._handle, described.product, described.left, described.right, described.c,
                described.c, algorithm.ctypes.data, result.ctypes.data,
            )  # fmt: skip
        except lt.cuBLASLtError as error:
            raise DeviceError(_FOREIGN_CHOICE.format(error)) from error
        needed = int(result["workspace_size"][0])
        if needed > self._workspace_nbytes:
            raise DeviceError(_FOREIGN_CHOICE.format(f"it needs {needed:,} bytes of workspace"))

    def _workspace(self, stream: "CudaStream") -> DeviceArray:
        found = self._workspaces.get(stream.address)
        if found is None:
            found = self._device.empty(self._workspace_nbytes, np.uint8)
            self._workspaces[stream.address] = found
        return found

    def _stream_handle(self, stream: "CudaStream") -> int:
        found = self._stream_handles.get(stream.address)
        if found is None:
            workspace = self._workspace(stream)
            found = int(self._cublas.create())
            self._cublas.set_stream(found, stream.address)
            # After the stream: cublasSetStream goes back to the default workspace.
            self._cublas.set_workspace(found, workspace.pointer, workspace.nbytes)
            self._stream_handles[stream.address] = found
        return found

    def _compute(self, gemm: Gemm) -> int:
        kinds = self._cublas.ComputeType
        if gemm.dtype == np.float64:
            return int(kinds.COMPUTE_64F)
        return int(kinds.COMPUTE_32F_FAST_TF32 if self._device.is_tf32 else kinds.COMPUTE_32F)

    def _kind(self, gemm: Gemm) -> int:
        return CUDA_R_64F if gemm.dtype == np.float64 else CUDA_R_32F

    def _flag(self, factor: Factor) -> int:
        return OPERATION_T if factor.is_transposed else OPERATION_N


class _Described:
    """A product and its matrices as cuBLASLt's descriptors, which live as long as this."""

    def __init__(self, lt: Any, gemm: Gemm, kind: int, compute: int) -> None:
        self._lt = lt
        self.product = lt.matmul_desc_create(compute, kind)
        self.left, self.right, self.c = (
            lt.matrix_layout_create(kind, rows, columns, leading)
            for rows, columns, leading in (
                (gemm.left.rows, gemm.left.columns, gemm.left.leading),
                (gemm.right.rows, gemm.right.columns, gemm.right.leading),
                (gemm.m, gemm.n, gemm.c_leading),
            )
        )
        wanted = lt.MatmulDescAttribute
        for attribute, factor in ((wanted.TRANSA, gemm.left), (wanted.TRANSB, gemm.right)):
            flag = OPERATION_T if factor.is_transposed else OPERATION_N
            _set(lt.matmul_desc_set_attribute, self.product, attribute,
                 lt.get_matmul_desc_attribute_dtype(attribute), flag)  # fmt: skip

    def __del__(self) -> None:
        for layout in (self.left, self.right, self.c):
            self._lt.matrix_layout_destroy(layout)
        self._lt.matmul_desc_destroy(self.product)


CUDA_R_32F, CUDA_R_64F = 0, 1  # cudaDataType_t
OPERATION_N, OPERATION_T = 0, 1  # cublasOperation_t
_FOREIGN_CHOICE = (
    "product choices must be of this GPU and this version of cuBLAS, got one that is refused ({}); "
    "tune anew"
)


def _set(function: Any, descriptor: int, attribute: int, kind: Any, value: int) -> None:
    buffer = np.array([value], kind)
    function(descriptor, attribute, buffer.ctypes.data, buffer.nbytes)


def _distances(factor: Factor) -> tuple[int, int]:
    """Return how far apart rows, and columns, of a factor are, read as it has rows."""
    return (1, factor.leading) if factor.is_transposed else (factor.leading, 1)


def _calling(function: Callable[..., object], given: tuple[Any, ...], kept: object) -> Call:
    """Return the call of ``function`` with what is ``given``, which keeps ``kept`` alive."""

    def call(_kept: object = kept) -> None:
        function(*given)

    return call
