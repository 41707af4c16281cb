"""Products of matrices on a device equal NumPy's, whatever lies how."""

import itertools

import numpy as np
import pytest

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Stream

SHAPES = [(1, 1, 1), (3, 5, 7), (32, 26, 50), (50, 128, 33), (130, 129, 128)]


def numbers(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def placed(device: Device, host: np.ndarray, is_transposed: bool) -> DeviceArray:
    return device.upload(host.T.copy()).T if is_transposed else device.upload(host)


def bound(depth: int, dtype: type, *, is_tf32: bool) -> float:
    """Return the most that a sum of ``depth`` products of numbers of about 1 may be off.

    Each of its terms, at most 5 x 5, is rounded ``depth`` times at most; TF32 rounds factors.
    """
    eps = float(np.finfo(dtype).eps)
    factors = 2 * 2.0**-11 if is_tf32 and dtype is np.float32 else 0.0
    return 25.0 * depth * (depth * eps + factors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_of_all_transposes_equal_numpys(
    device: Device, stream: Stream, shape: tuple[int, int, int], dtype: type
) -> None:
    m, n, k = shape
    a, b = numbers(m, k, dtype=dtype), numbers(k, n, dtype=dtype)
    for is_a, is_b in itertools.product((False, True), repeat=2):
        c = device.empty(m * n, dtype).reshape(m, n)
        stream.bind_product(placed(device, a, is_a), placed(device, b, is_b), c)()
        wrong = np.abs(device.read(c) - a.astype(np.float64) @ b.astype(np.float64)).max()
        assert wrong <= bound(k, dtype, is_tf32=device.is_tf32)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (1.0, 1.0), (-0.5, 0.25), (0.0, 2.0)])
def test_alpha_scales_the_product_and_beta_what_was_there(
    device: Device, stream: Stream, alpha: float, beta: float
) -> None:
    a, b, c = numbers(20, 30), numbers(30, 10), numbers(20, 10)
    on_device = device.upload(c)
    product = stream.bind_product(
        device.upload(a), device.upload(b), on_device, alpha=alpha, beta=beta
    )
    product()
    np.testing.assert_allclose(
        device.read(on_device), alpha * (a @ b) + beta * c, rtol=0, atol=1e-12
    )


def test_binding_a_product_computes_nothing_yet(device: Device, stream: Stream) -> None:
    a, c = device.upload(np.ones((4, 4))), device.upload(numbers(4, 4))
    stream.bind_product(a, a, c, beta=1.0)
    stream.synchronize()
    np.testing.assert_array_equal(device.read(c), numbers(4, 4))


def test_without_beta_what_was_there_does_not_matter(device: Device, stream: Stream) -> None:
    a = device.upload(np.ones((4, 4)))
    c = device.upload(np.full((4, 4), np.nan))
    stream.bind_product(a, a, c)()
    np.testing.assert_array_equal(device.read(c), np.full((4, 4), 4.0))


@pytest.mark.parametrize("is_a_transposed", [False, True])
@pytest.mark.parametrize("is_b_transposed", [False, True])
def test_parts_of_matrices_are_multiplied_where_they_lie(
    device: Device, stream: Stream, is_a_transposed: bool, is_b_transposed: bool
) -> None:
    m, n, k, gap = 6, 5, 4, 3
    a, b, c = numbers(m, k), numbers(k, n), numbers(m, n + gap)
    stored_a, stored_b = (a.T if is_a_transposed else a), (b.T if is_b_transposed else b)

    def with_gap(stored: np.ndarray, is_transposed: bool) -> tuple[DeviceArray, int]:
        rows, length = stored.shape
        wide = np.full((rows, length + gap), np.nan)
        wide[:, :length] = stored
        flat = device.upload(wide.reshape(-1))
        part = flat[: rows * length].reshape(rows, length)
        return (part.T if is_transposed else part), length + gap

    on_a, leading_a = with_gap(stored_a, is_a_transposed)
    on_b, leading_b = with_gap(stored_b, is_b_transposed)
    whole = device.upload(c.reshape(-1))
    part = whole[: m * n].reshape(m, n)
    stream.bind_product(on_a, on_b, part, beta=1.0, leading=(leading_a, leading_b, n + gap))()
    expected = c.copy()
    expected[:, :n] += a @ b
    np.testing.assert_allclose(device.read(whole).reshape(m, n + gap), expected, rtol=0, atol=1e-12)


def test_products_that_begin_anywhere_in_a_buffer_are_right(device: Device, stream: Stream) -> None:
    flat = device.upload(numbers(200, dtype=np.float32))
    host = numbers(200, dtype=np.float32).astype(np.float64)
    for start in (1, 2, 3, 4, 5):
        a, b = flat[start : start + 16].reshape(4, 4), flat[40 + start : 56 + start].reshape(4, 4)
        out = device.empty(16 + start, np.float32)
        stream.bind_product(a, b, out[start:].reshape(4, 4))()
        expected = host[start : start + 16].reshape(4, 4) @ host[40 + start : 56 + start].reshape(
            4, 4
        )
        wrong = np.abs(device.read(out)[start:].reshape(4, 4) - expected).max()
        assert wrong <= bound(4, np.float32, is_tf32=device.is_tf32)


@pytest.mark.parametrize("beta", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_empty_matrices_are_multiplied(
    device: Device, stream: Stream, shape: tuple[int, int, int], beta: float
) -> None:
    m, n, k = shape
    before = numbers(m, n)
    c = device.upload(before)
    stream.bind_product(
        device.upload(np.zeros((m, k))), device.upload(np.zeros((k, n))), c, beta=beta
    )()
    np.testing.assert_array_equal(device.read(c), beta * before)


def test_the_same_product_gives_the_same_bits(device: Device, stream: Stream) -> None:
    a, b = (device.upload(numbers(257, 257, dtype=np.float32)) for _ in range(2))
    found = []
    for _ in range(2):
        c = device.empty(257 * 257, np.float32).reshape(257, 257)
        product = stream.bind_product(a, b, c)
        product()
        product()
        found.append(device.read(c))
    np.testing.assert_array_equal(*found)


def test_matrices_that_do_not_fit_are_refused(device: Device, stream: Stream) -> None:
    a, b, c = (device.upload(numbers(*shape)) for shape in ((3, 4), (4, 5), (3, 5)))
    for wrong in ((a, b, a), (b, a, c), (a, b, c.T), (a, b, c.reshape(15))):
        with pytest.raises(ValueError):
            stream.bind_product(*wrong)
    with pytest.raises(ValueError):
        stream.bind_product(a, device.upload(numbers(4, 5, dtype=np.float32)), c)
