"""Products by cuBLASLt: descriptors, heuristics, algorithms; what is bound is one call of the library.

The handle is one for the device, and each call names its stream and its workspace.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exec.device.array import DeviceArray
from exec.device.gemm import Gemm
from exec.device.product_choice import alignment_of
from exec.device.protocol import Call
from exec.errors import DeviceError

CUDA_KINDS = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}  # cudaDataType_t: CUDA_R_32F, _64F


@dataclass(frozen=True, slots=True)
class Wanted:
    """A product of ``arrays`` a, b and c."""

    gemm: Gemm
    alpha: float
    beta: float
    arrays: tuple[DeviceArray, DeviceArray, DeviceArray]

    def scalars(self) -> NDArray[Any]:
        """Return alpha and beta as the library reads them, from the host's memory at each call."""
        return np.array([self.alpha, self.beta], self.gemm.dtype)


class CublasLt:
    """The library, opened; ``workspace_nbytes`` is the most that an algorithm may use."""

    def __init__(self, lt: Any, workspace_nbytes: int) -> None:
        self._lt, self._workspace_nbytes = lt, workspace_nbytes
        self._handle = lt.create()

    @property
    def version(self) -> str:
        """As cuBLAS numbers them: 130100 is 13.1.0."""
        return str(self._lt.get_version())

    def algorithms(self, gemm: Gemm, compute: int, count: int) -> list[bytes]:
        """Return up to ``count`` that the heuristics propose, the one expected to be best first.

        Raises:
            RuntimeError: none can do it, which happens to no product of dense matrices.
        """
        lt, described = self._lt, _Described(self._lt, gemm, compute)
        proposed = np.zeros(count, lt.matmul_heuristic_result_dtype)
        found = np.zeros(1, np.int32)
        preference = lt.matmul_preference_create()
        try:
            wanted = lt.MatmulPreferenceAttribute
            # Arrays may begin anywhere in a flat buffer; what is not said is taken to be aligned
            # to 256 bytes (cuBLAS documentation, cublasLtMatmulPreferenceAttributes_t).
            for attribute, value in (
                (wanted.MAX_WORKSPACE_BYTES, self._workspace_nbytes),
                (wanted.MIN_ALIGNMENT_A_BYTES, alignment_of(gemm.left.pointer)),
                (wanted.MIN_ALIGNMENT_B_BYTES, alignment_of(gemm.right.pointer)),
                (wanted.MIN_ALIGNMENT_C_BYTES, alignment_of(gemm.c)),
                (wanted.MIN_ALIGNMENT_D_BYTES, alignment_of(gemm.c)),
            ):
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

    def bind(
        self, stream: int, wanted: Wanted, compute: int, algorithm: bytes, workspace: DeviceArray
    ) -> Call:  # fmt: skip
        """Return a call that enqueues the product on the stream at address ``stream``.

        Raises:
            DeviceError: ``algorithm`` was made for another GPU or version of cuBLAS.
        """
        gemm = wanted.gemm
        described = _Described(self._lt, gemm, compute)
        chosen = np.frombuffer(bytearray(algorithm), np.uint8)
        self._check(described, chosen)
        scalars = wanted.scalars()
        at_alpha, left, right = scalars.ctypes.data, gemm.left, gemm.right
        given = (
            self._handle, described.product, at_alpha, left.pointer, described.left, right.pointer,
            described.right, at_alpha + scalars.itemsize, gemm.c, described.c, gemm.c, described.c,
            chosen.ctypes.data, workspace.pointer, workspace.nbytes, stream,
        )  # fmt: skip
        kept = (wanted.arrays, scalars, chosen, described, workspace)
        return calling(self._lt.matmul, given, kept)

    def close(self) -> None:
        """Give back the handle."""
        self._lt.destroy(self._handle)

    def _check(self, described: "_Described", algorithm: NDArray[Any]) -> None:
        result = np.zeros(1, self._lt.matmul_heuristic_result_dtype)
        try:
            self._lt.matmul_algo_check(
                self._handle, described.product, described.left, described.right, described.c,
                described.c, algorithm.ctypes.data, result.ctypes.data,
            )  # fmt: skip
        except self._lt.cuBLASLtError as error:
            raise DeviceError(_FOREIGN_CHOICE.format(error)) from error
        needed = int(result["workspace_size"][0])
        if needed > self._workspace_nbytes:
            raise DeviceError(_FOREIGN_CHOICE.format(f"it needs {needed:,} bytes of workspace"))


class _Described:
    """A product and its matrices as the library's descriptors, which live as long as this."""

    def __init__(self, lt: Any, gemm: Gemm, compute: int) -> None:
        self._lt, kind = lt, CUDA_KINDS[gemm.dtype]
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
            type_ = lt.get_matmul_desc_attribute_dtype(attribute)
            # cublasOperation_t: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
            flag = int(factor.is_transposed)
            _set(lt.matmul_desc_set_attribute, self.product, attribute, type_, flag)

    def __del__(self) -> None:
        for layout in (self.left, self.right, self.c):
            self._lt.matrix_layout_destroy(layout)
        self._lt.matmul_desc_destroy(self.product)


def calling(function: Callable[..., object], given: tuple[Any, ...], kept: object) -> Call:
    """Return the call of ``function`` with what is ``given``, which keeps ``kept`` alive."""

    def call(_kept: object = kept) -> None:
        function(*given)

    return call


def _set(function: Any, descriptor: int, attribute: int, kind: Any, value: int) -> None:
    buffer = np.array([value], kind)
    function(descriptor, attribute, buffer.ctypes.data, buffer.nbytes)


_FOREIGN_CHOICE = (
    "product choices must be of this GPU and this version of cuBLAS, got one that is refused ({}); "
    "tune anew"
)
