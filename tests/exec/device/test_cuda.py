"""What only a GPU can show: its libraries, its precision, its memory, other processes on it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from exec.device.cublas import ProductRoute, Tuning
from exec.device.cuda import CudaDevice, open_cuda
from exec.device.cuda_ipc import export, shareable
from exec.device.opening import KERNELS
from exec.errors import DeviceError

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[3]
ADD_ONE = """
import sys
import numpy as np
from exec.device.cuda import open_cuda
from exec.device.cuda_ipc import open_shared
from exec.device.opening import KERNELS

device = open_cuda(0, KERNELS, is_tf32=False)
array = open_shared(device, bytes.fromhex(sys.argv[1]), 1000, np.float32)
ones = device.upload(np.ones(1000, np.float32))
device.stream().bind_kernel("accumulate", np.float32, (4,), (256,), array, ones, 1000)()
device.synchronize()
"""

Open = Callable[..., CudaDevice]


@pytest.fixture
def opening() -> Iterator[Open]:
    """Yield what opens a GPU, or skips with the reason why it cannot be opened."""
    opened: list[CudaDevice] = []

    def open_gpu(**options: object) -> CudaDevice:
        try:
            opened.append(open_cuda(0, KERNELS, **({"is_tf32": False} | options)))
        except DeviceError as error:
            pytest.skip(str(error))
        return opened[-1]

    yield open_gpu
    for device in opened:
        device.close()


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution."""

    samples: int = 4
    channels: int = 8
    height: int = 12
    width: int = 10
    filters: int = 16
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)


def numbers(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def product(device: CudaDevice, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    c = device.empty(len(a) * b.shape[1], a.dtype).reshape(len(a), b.shape[1])
    device.stream().bind_product(device.upload(a), device.upload(b), c)()
    return device.read(c)


@pytest.mark.parametrize("route", ProductRoute)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_route_multiplies(opening: Open, route: ProductRoute, dtype: type) -> None:
    a, b = numbers(70, 90, dtype=dtype), numbers(90, 130, dtype=dtype)
    found = product(opening(route=route), a, b)
    atol = 25 * 90 * 90 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, a.astype(float) @ b.astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize("route", [ProductRoute.CUBLASLT, ProductRoute.CUBLAS])
def test_tf32_rounds_factors_and_nothing_else_does(opening: Open, route: ProductRoute) -> None:
    # 1 + 2^-12 is a float32, but not one of TF32's.
    a, b = np.full((256, 256), 1 + 2.0**-12, np.float32), np.eye(256, dtype=np.float32)
    assert np.array_equal(product(opening(route=route), a, b), a)
    assert np.array_equal(product(opening(route=route, is_tf32=True), a, b), np.ones_like(a))


def test_choices_of_one_device_give_the_same_bits_on_another(opening: Open) -> None:
    a, b = numbers(300, 513), numbers(513, 200)
    first = Tuning(num_candidates=4)
    found = product(opening(route=ProductRoute.AUTO, tuning=first), a, b)
    assert len(first.choices) == 1
    second = Tuning.imported(first.exported())
    assert np.array_equal(product(opening(route=ProductRoute.AUTO, tuning=second), a, b), found)


def test_more_memory_than_there_is_is_refused_in_words(opening: Open) -> None:
    device = opening()
    with pytest.raises(DeviceError, match="GPU memory must hold"):
        device.empty(device.memory()[1] + 1, np.uint8)
    assert device.read(device.upload(np.ones(3))).tolist() == [1.0] * 3


def test_no_such_gpu_is_named(opening: Open) -> None:
    opening()
    with pytest.raises(DeviceError, match="GPU must be one of the"):
        open_cuda(1000, KERNELS, is_tf32=False)


def test_another_process_shares_exported_memory(opening: Open) -> None:
    device = opening()
    array = shareable(device, 1000, np.float32)
    device.write(array, np.arange(1000, dtype=np.float32))
    handle = export(device, array).hex()
    subprocess.run([sys.executable, "-c", ADD_ONE, handle], cwd=ROOT, check=True, timeout=120)
    assert device.read(array).tolist() == list(range(1, 1001))
    with pytest.raises(ValueError, match="must begin"):
        export(device, array[1:])


def test_memory_that_is_dropped_may_still_be_read_by_what_was_enqueued(opening: Open) -> None:
    device = opening()
    stream = device.stream()
    spin = stream.bind_kernel("spin", np.float32, (1,), (1,), 20_000)
    target = device.upload(np.zeros(1 << 20, np.float32))
    source = device.upload(np.ones(1 << 20, np.float32))
    copy = stream.bind_copy(source, target)
    spin()
    copy()
    del source, copy
    for _ in range(4):
        device.upload(np.full(1 << 20, 9, np.float32))
    assert (device.read(target) == 1).all()


def test_cudnn_convolves(opening: Open) -> None:
    device, shape = opening(), Shape()
    library = device.convolutions
    if library is None:
        pytest.skip("cuDNN is not installed")
    image, weight = numbers(4, 12, 10, 8), numbers(16, 3, 3, 8)
    padded = np.pad(image.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    output = np.einsum("nhwckl,fklc->nhwf", seen, weight)
    gradient = numbers(*output.shape)
    by_weight = np.einsum("nhwckl,nhwf->fklc", seen, gradient)
    by_padded = np.zeros_like(padded)
    _, height, width, _ = output.shape
    for row, column in np.ndindex(3, 3):
        place = by_padded[:, row : row + 2 * height : 2, column : column + 2 * width : 2]
        place += gradient @ weight[:, row, column].astype(float)
    stream = device.stream()
    on_image, on_weight, on_gradient = map(device.upload, (image, weight, gradient))
    found = [device.upload(np.zeros_like(each)) for each in (gradient, weight, image)]
    calls = [
        library.bind_forward(stream, on_image, on_weight, found[0], shape),
        library.bind_backward_weight(stream, on_image, on_gradient, found[1], shape),
        library.bind_backward_input(stream, on_weight, on_gradient, found[2], shape),
    ]
    assert None not in calls
    graph = stream.capture(lambda: [call() for call in calls])
    graph.launch(stream)
    expected = (output, by_weight, by_padded[:, 1:-1, 1:-1])
    for array, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(device.read(array), right, rtol=0, atol=1e-3)
