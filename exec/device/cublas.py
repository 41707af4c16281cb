"""Products of matrices on a GPU: by cuBLASLt, by cuBLAS, or by our own kernel for small ones.

CuPy refuses to call its cuBLAS while a graph is captured; through nvmath-python's bindings with
workspaces of our own, both can be captured (cuBLAS documentation, CUDA Graphs Support). A workspace
for each stream also makes results repeat bit by bit (there, Results Reproducibility).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exec.device.array import DeviceArray
from exec.device.cublas_lt import CUDA_KINDS, CublasLt, Wanted, calling
from exec.device.cuda_kernels import do_nothing
from exec.device.gemm import Factor, Gemm, gemm_of
from exec.device.product_choice import Choice, ProductRoute, Tuning, choice_key
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
        self._device, self._route, self._cublas = device, route, cublas
        self._workspaces: dict[int, DeviceArray] = {}
        self._stream_handles: dict[int, int] = {}
        major = int(device.cupy.cuda.Device(device.index).compute_capability[:-1])
        self._workspace_nbytes = WORKSPACE_NBYTES if major >= 9 else OLDER_WORKSPACE_NBYTES
        self._lt = None if lt is None else CublasLt(lt, self._workspace_nbytes)

    @property
    def software(self) -> dict[str, str]:
        """The version of cuBLAS, and which way products go."""
        version = "none" if self._lt is None else self._lt.version
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
        wanted = Wanted(gemm, alpha, beta, (a, b, c))
        if gemm.m == 0 or gemm.n == 0:
            return do_nothing
        if gemm.k == 0:  # then c = beta c, of which libraries say nothing
            return self._bind_own(stream, wanted)
        choice = self._choose(stream, wanted)
        call = self._bind_choice(stream, wanted, choice)
        # A library loads a kernel when it is first used, and that may wait for the whole GPU: not
        # to happen in a capture, nor while NCCL's kernels wait for another rank.
        self._bind_choice(stream, self._rehearsal(wanted), choice)()
        stream.synchronize()
        return call

    def close(self) -> None:
        """Give back the handles and workspaces."""
        for handle in self._stream_handles.values():
            self._cublas.destroy(handle)
        if self._lt is not None:
            self._lt.close()
        self._stream_handles.clear()
        self._workspaces.clear()

    def _choose(self, stream: "CudaStream", wanted: Wanted) -> Choice:
        key = choice_key(wanted.gemm, is_tf32=self._device.is_tf32, is_added=wanted.beta != 0)
        known = self.tuning.choices.get(key)
        if known is not None:
            return known
        if self.tuning.num_candidates == 0:
            return next(self._candidates(wanted.gemm, self._route, 1))
        rehearsal = self._rehearsal(wanted)
        timed = [
            (self._time_s(stream, self._bind_choice(stream, rehearsal, each)), index, each)
            for index, each in enumerate(
                self._candidates(wanted.gemm, self._route, self.tuning.num_candidates)
            )
        ]
        self.tuning.choices[key] = min(timed)[2]
        return self.tuning.choices[key]

    def _candidates(self, gemm: Gemm, route: ProductRoute, count: int) -> Iterator[Choice]:
        """Yield what may be fastest, what is expected to be so first."""
        if route in (ProductRoute.CUBLASLT, ProductRoute.AUTO):
            assert self._lt is not None
            for algorithm in self._lt.algorithms(gemm, self._compute(gemm), count):
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

    def _rehearsal(self, wanted: Wanted) -> Wanted:
        """Return the same product into memory of its own, which lies like ``c``."""
        gemm, (a, b, c) = wanted.gemm, wanted.arrays
        whole = self._device.empty((gemm.n - 1) * gemm.c_leading + gemm.m, c.dtype)
        result = replace(c, memory=whole.memory, pointer=whole.pointer)
        return replace(wanted, gemm=replace(gemm, c=whole.pointer), arrays=(a, b, result))

    def _bind_choice(self, stream: "CudaStream", wanted: Wanted, choice: Choice) -> Call:
        match choice.route:
            case ProductRoute.OWN:
                return self._bind_own(stream, wanted)
            case ProductRoute.CUBLAS:
                return self._bind_cublas(stream, wanted)
            case _:
                return self._bind_lt(stream, wanted, choice.algorithm)

    def _bind_own(self, stream: "CudaStream", wanted: Wanted) -> Call:
        """Return a launch of our kernel, with large tiles if they are enough for the whole GPU."""
        gemm, (a, b, c) = wanted.gemm, wanted.arrays
        rows, columns = gemm.n, gemm.m  # of c as it has rows
        tiles = {side: -(-rows // side) * -(-columns // side) for side in (16, 64)}
        side = 64 if tiles[64] >= self._device.num_multiprocessors else 16
        of_a, of_b = _distances(gemm.right), _distances(gemm.left)
        return self._device.kernels.bind(
            stream.address, f"product_{side}", c.dtype, (tiles[side],), (256,),
            (a, b, c, rows, columns, gemm.k, *of_a, *of_b, gemm.c_leading, float(wanted.alpha),
             float(wanted.beta)),
        )  # fmt: skip

    def _bind_cublas(self, stream: "CudaStream", wanted: Wanted) -> Call:
        gemm, scalars = wanted.gemm, wanted.scalars()
        handle, kind = self._stream_handle(stream), CUDA_KINDS[gemm.dtype]
        left, right, at_alpha = gemm.left, gemm.right, scalars.ctypes.data
        given = (
            handle, int(left.is_transposed), int(right.is_transposed), gemm.m, gemm.n, gemm.k,
            at_alpha, left.pointer, kind, left.leading, right.pointer, kind, right.leading,
            at_alpha + scalars.itemsize, gemm.c, kind, gemm.c_leading, self._compute(gemm),
            int(self._cublas.GemmAlgo.DFALT),
        )  # fmt: skip
        return calling(self._cublas.gemm_ex, given, (wanted.arrays, scalars))

    def _bind_lt(self, stream: "CudaStream", wanted: Wanted, algorithm: bytes) -> Call:
        assert self._lt is not None
        compute = self._compute(wanted.gemm)
        return self._lt.bind(stream.address, wanted, compute, algorithm, self._workspace(stream))

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


def _distances(factor: Factor) -> tuple[int, int]:
    """Return how far apart rows, and columns, of a factor are, read as it has rows."""
    return (1, factor.leading) if factor.is_transposed else (factor.leading, 1)
