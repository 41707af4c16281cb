"""The functions of CuPy, nvmath-python and cudnn-frontend that we call take what we give them.

They are compiled: the first line of a docstring is the signature. No GPU is needed, nor a driver.
"""

import inspect
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest

# What is called, and with how many arguments.
RUNTIME = {
    "driverGetVersion": 0, "runtimeGetVersion": 0, "getDeviceCount": 0, "getDeviceProperties": 1,
    "deviceGetPCIBusId": 1, "memGetInfo": 0, "memcpyAsync": 5, "memsetAsync": 4, "eventQuery": 1,
    "check_status": 1, "graphDestroy": 1, "streamEndCapture": 1, "pointerGetMemoryType": 1,
    "ipcGetMemHandle": 1, "ipcOpenMemHandle": 1, "ipcCloseMemHandle": 1,
}  # fmt: skip
CONSTANTS = {
    "memcpyDefault": 4, "memcpyHostToDevice": 1, "memcpyDeviceToHost": 2, "memoryTypeHost": 1,
    "hostAllocPortable": 1,
}  # fmt: skip
CUDA = {
    "driver.launchKernel": 11, "Memory": 1, "PinnedMemory": 2, "PinnedMemoryPointer": 2,
    "Stream": 1, "Event": 1, "get_elapsed_time": 2, "Device": 1, "function.Function": 2,
}  # fmt: skip
ATTRIBUTES = (
    "runtime.CUDARuntimeError", "compiler.CompileException", "Device.use", "Memory.ptr",
    "Device.compute_capability", "Stream.synchronize", "Stream.begin_capture", "Stream.end_capture",
    "Stream.record", "Stream.wait_event", "Event.synchronize", "function.Module.get_function",
    "function.Function.ptr", "nvrtc.getVersion", "graph.Graph.launch", "graph.Graph.upload",
)  # fmt: skip
CUBLAS = {
    "create": 0, "destroy": 1, "set_stream": 2, "set_workspace": 3, "gemm_ex": 19,
}  # fmt: skip
CUBLASLT = {
    "create": 0, "destroy": 1, "get_version": 0, "matmul": 16, "matmul_algo_check": 8,
    "matmul_algo_get_heuristic": 10, "matmul_desc_create": 2, "matmul_desc_destroy": 1,
    "matmul_desc_set_attribute": 4, "matmul_preference_create": 0, "matmul_preference_destroy": 1,
    "matmul_preference_set_attribute": 4, "matrix_layout_create": 4, "matrix_layout_destroy": 1,
    "get_matmul_desc_attribute_dtype": 1, "get_matmul_preference_attribute_dtype": 1,
}  # fmt: skip


def found(module: Any, name: str) -> Any:
    return reduce(getattr, name.split("."), module)


def takes(function: Callable[..., object], count: int) -> bool:
    """Say whether the signature in the docstring allows so many positional arguments."""
    documented = [function.__doc__, getattr(function, "__init__", None).__doc__]
    for text in documented:
        signature = re.search(r"^[\w.]+\((.*?)\)(?: -> .*)?$", text or "", re.MULTILINE)
        if signature is None:
            continue
        parameters = [
            each.strip() for each in signature[1].split(",") if each.strip() not in ("", "self")
        ]
        required = sum("=" not in each for each in parameters)
        return required <= count <= len(parameters)
    raise AssertionError(f"{function} must have its signature in its docstring")


@pytest.mark.parametrize(("name", "count"), RUNTIME.items())
def test_cupys_runtime_takes_what_we_give_it(name: str, count: int) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    function = getattr(cupy.cuda.runtime, name)
    assert takes(function, count), function.__doc__


def test_cupys_constants_are_cudas() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    assert {name: getattr(cupy.cuda.runtime, name) for name in CONSTANTS} == CONSTANTS


@pytest.mark.parametrize(("name", "count"), CUDA.items())
def test_cupy_takes_what_we_give_it(name: str, count: int) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    function = found(cupy.cuda, name)
    assert takes(function, count), function.__doc__


def test_cupy_has_what_we_use() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    for name in ATTRIBUTES:
        if name == "Memory.ptr":
            assert hasattr(cupy.cuda.memory.BaseMemory, "ptr")
        else:
            assert found(cupy.cuda, name) is not None
    assert hasattr(cupy.RawModule, "module")
    assert {"code", "options"} <= set(re.findall(r"(\w+)=", cupy.RawModule.__doc__.splitlines()[0]))


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [("cublas", *each) for each in CUBLAS.items()]
    + [("cublasLt", *each) for each in CUBLASLT.items()],
)
def test_nvmath_takes_what_we_give_it(module: str, name: str, count: int) -> None:
    bindings = pytest.importorskip(f"nvmath.bindings.{module}", reason="nvmath is not installed")
    function = getattr(bindings, name)
    assert takes(function, count), function.__doc__


def test_nvmaths_constants_and_structures_are_those_of_cublas() -> None:
    cublas = pytest.importorskip("nvmath.bindings.cublas", reason="nvmath is not installed")
    lt = pytest.importorskip("nvmath.bindings.cublasLt", reason="nvmath is not installed")
    kinds = cublas.ComputeType
    assert (kinds.COMPUTE_32F, kinds.COMPUTE_64F, kinds.COMPUTE_32F_FAST_TF32) == (68, 70, 77)
    assert (cublas.Operation.N, cublas.Operation.T, cublas.GemmAlgo.DFALT) == (0, 1, -1)
    assert lt.get_matmul_desc_attribute_dtype(lt.MatmulDescAttribute.TRANSA) is np.int32
    for name, kind in (("MAX_WORKSPACE_BYTES", np.uint64), ("MIN_ALIGNMENT_A_BYTES", np.uint32)):
        attribute = getattr(lt.MatmulPreferenceAttribute, name)
        assert lt.get_matmul_preference_attribute_dtype(attribute) is kind
    # cublasLtMatmulHeuristicResult_t: an algorithm of 64 bytes first, 96 in all.
    result = lt.matmul_heuristic_result_dtype
    assert (result.itemsize, result["algo"].itemsize, result.fields["algo"][1]) == (96, 64, 0)
    assert {"workspace_size", "state"} <= set(result.names)
    assert issubclass(lt.cuBLASLtError, Exception)


def test_a_convolution_is_described_to_cudnn_as_it_expects() -> None:
    cudnn = pytest.importorskip("cudnn", reason="cudnn-frontend is not installed")
    graph = cudnn.pygraph(
        io_data_type=cudnn.data_type.FLOAT, intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT, handle=None,
    )  # fmt: skip
    image = graph.tensor(dim=[2, 3, 8, 8], stride=[192, 1, 24, 3], data_type=cudnn.data_type.FLOAT,
                         name="image", uid=1)  # fmt: skip
    weight = graph.tensor(dim=[4, 3, 3, 3], stride=[27, 1, 9, 3], data_type=cudnn.data_type.FLOAT,
                          name="weight", uid=2)  # fmt: skip
    kinds = {"padding": [1, 1], "stride": [2, 2], "dilation": [1, 1]}
    output = graph.conv_fprop(image=image, weight=weight, **kinds)
    assert output.get_dim() == [2, 4, 4, 4]
    gradient = graph.conv_wgrad(image=image, loss=output, **kinds)
    back = graph.conv_dgrad(loss=output, filter=weight, **kinds)
    for tensor, uid in ((output, 3), (gradient, 4), (back, 5)):
        tensor.set_output(True)
        tensor.set_data_type(cudnn.data_type.FLOAT)
        tensor.set_uid(uid)
        tensor.set_dim([2, 4, 4, 4])
        tensor.set_stride([64, 1, 16, 4])
        assert tensor.get_uid() == uid
    assert list(inspect.signature(graph.execute).parameters)[:3] == [
        "tensor_dict", "workspace", "handle",
    ]  # fmt: skip
    for name in ("validate", "build_operation_graph", "check_support", "build_plans"):
        assert callable(getattr(graph, name))
    graph.deselect_workspace_greater_than(1 << 20)
    assert [inspect.signature(f).parameters.keys() for f in (cudnn.set_stream, cudnn.destroy_handle)] == [
        {"handle": 0, "stream": 0}.keys(), {"handle": 0}.keys(),
    ]  # fmt: skip


def test_cudnn_knows_the_notes_by_which_engines_are_left_out() -> None:
    cudnn = pytest.importorskip("cudnn", reason="cudnn-frontend is not installed")
    from_us = pytest.importorskip("exec.device.cudnn_graphs").INEXACT
    for note in (*from_us, "TENSOR_CORE"):
        assert hasattr(cudnn.numerical_note, note)
    assert hasattr(cudnn.heur_mode, "A")
    assert hasattr(cudnn.heur_mode, "FALLBACK")
    assert issubclass(cudnn.cudnnGraphNotSupportedError, Exception)
