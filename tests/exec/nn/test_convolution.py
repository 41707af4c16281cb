"""Both ways of convolution against its definition, finite differences and PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.network.scratch import Convolution, convolution_scratch
from exec.nn.convolution import Conv2d
from exec.nn.patch_convolution import PatchConvolution
from exec.nn.row_convolution import RowConvolution
from tests.exec.nn.finite_differences import ABS, gradient_of
from tests.exec.nn.images import Array, Pair, normal, samples_first, samples_last, windows

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
FEW, SEEDS = st.integers(1, 3), st.integers(0, 2**32)
WAYS = pytest.mark.parametrize("way", [PatchConvolution, RowConvolution])
Windows = tuple[Pair, Pair, Pair, Pair]

# Sums of at most 3000 products of numbers below 6: 3000 x 36 x 1.1e-16 = 1.2e-11 at the very most.
ROUNDING = 2e-11


def directly(a: Array, weight: Array, of: Convolution) -> Array:
    """Return the convolution by its definition, window by window."""
    (kh, kw), (sh, sw), (ph, pw) = of.kernel, of.stride, of.padding
    padded = np.pad(a, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    out = np.empty((of.filters, of.output_height, of.output_width, of.samples))
    for h, w in np.ndindex(out.shape[1:3]):
        window = padded[:, h * sh : h * sh + kh, w * sw : w * sw + kw]
        out[:, h, w] = np.einsum("fhwc,chwn->fn", weight, window)
    return out


def drawn(of: Convolution, seed: int) -> tuple[Array, Array, Array, Array]:
    """Return an input, a weight, a bias and a gradient of the output."""
    weight = normal(seed, of.filters, *of.kernel, of.channels)
    a = normal(seed + 1, of.channels, of.height, of.width, of.samples)
    gb = normal(seed + 2, of.filters, of.output_height, of.output_width, of.samples)
    return a, weight, normal(seed + 3, of.filters), gb


def passes(way: type, of: Convolution, seed: int, start: float = 0.0) -> tuple[Array, Array, Array]:
    """Return the output and both gradients of one way, in scratch that holds nothing usable."""
    a, weight, bias, gb = drawn(of, seed)
    size = of.patch_scratch if way is PatchConvolution else of.row_scratch
    output, grad_weight, grad_input = (np.full(x.shape, np.nan) for x in (gb, weight, a))
    grad_weight.fill(start)
    if start:
        grad_input.fill(start)
    module = way(of, weight, bias, grad_weight, output, np.full(size, np.nan))
    module.forward(a)
    module.backward_weight(a, gb)
    module.backward_input(gb, grad_input, adds=bool(start))
    return output, grad_weight, grad_input


def check(way: type, of: Convolution, seed: int) -> None:
    """Check all passes: a convolution is linear in each factor, so its gradients are sums too."""
    a, weight, bias, gb = drawn(of, seed)
    output, grad_weight, grad_input = passes(way, of, seed)
    expected = directly(a, weight, of) + bias[:, None, None, None]
    np.testing.assert_allclose(output, expected, rtol=0, atol=ROUNDING)
    # <gb, conv(x, v)> = <gradient by the weight, v> = <gradient by the input, x>, whatever x and v.
    x, v = normal(seed + 4, *a.shape), normal(seed + 5, *weight.shape)
    scale = ROUNDING * max(1, gb.size)
    assert (gb * directly(a, v, of)).sum() == pytest.approx(
        (grad_weight * v).sum(), rel=0, abs=scale
    )
    assert (gb * directly(x, weight, of)).sum() == pytest.approx(
        (grad_input * x).sum(), rel=0, abs=scale
    )
    for found, added in zip(passes(way, of, seed, 0.5)[1:], (grad_weight, grad_input), strict=True):
        np.testing.assert_allclose(found, added + 0.5, rtol=0, atol=ROUNDING)


@WAYS
@SETTINGS
@given(windows(1), FEW, FEW, FEW, SEEDS)
def test_every_way_is_the_definition(
    way: type, shape: Windows, n: int, c: int, f: int, seed: int
) -> None:
    (height, width), *rest = shape
    check(way, Convolution(n, c, height, width, f, *rest), seed)


@WAYS
@pytest.mark.parametrize(
    "of",
    [
        Convolution(30, 64, 3, 10, 64, (3, 3), (1, 1), (1, 1)),  # runs divided into small products
        Convolution(2, 130, 4, 5, 3, (3, 2), (2, 2), (1, 0)),  # too many channels to divide
        Convolution(8, 40, 12, 12, 2, (5, 5), (1, 1), (2, 2)),  # several groups, several blocks
        Convolution(300, 3, 30, 6, 2, (3, 3), (1, 2), (1, 1)),  # all positions, several blocks
        Convolution(3, 5, 9, 11, 4, (1, 1), (2, 3), (0, 0)),  # rows and columns nobody sees
    ],
)
def test_blocks_make_no_difference(way: type, of: Convolution) -> None:
    check(way, of, 1)


def module_of(of: Convolution, seed: int, *, adds: bool = False) -> tuple[Conv2d, Array, Array]:
    """Return a module whose gradients start at 0.5, its input, and a gradient of its output."""
    a, weight, bias, gb = drawn(of, seed)
    module = Conv2d(
        weight, bias, np.full_like(weight, 0.5), np.full_like(bias, 0.5), np.empty_like(gb),
        np.full(of.scratch, np.nan), of.stride, of.padding, np.full_like(a, 0.5), adds, adds,
    )  # fmt: skip
    return module, a, gb


@SETTINGS
@given(windows(1), FEW, FEW, FEW, st.booleans(), SEEDS)
def test_gradients_are_the_finite_differences(
    shape: Windows, n: int, c: int, f: int, adds: bool, seed: int
) -> None:
    (height, width), *rest = shape
    module, a, gb = module_of(Convolution(n, c, height, width, f, *rest), seed, adds=adds)

    def loss() -> float:
        return float((module.forward(a) * gb).sum())

    loss()
    module.backward(gb)
    for found, x in ((module.grad_bias, module.bias), (module.grad_weight, module.weight), (module.grad_input, a)):  # fmt: skip
        assert found is not None
        assert x is not None
        # The loss is a sum of up to 147 outputs' worth of roundings: the bound grows with them.
        expected = gradient_of(loss, x) + 0.5 * adds
        np.testing.assert_allclose(found, expected, rtol=0, atol=ABS * max(1, gb.size))


@SETTINGS
@given(windows(1), st.integers(0, 9), st.integers(1, 9), FEW, st.booleans(), SEEDS)
def test_module_follows_torch(
    shape: Windows, n: int, c: int, f: int, adds: bool, seed: int
) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: a development oracle")
    (height, width), kernel, stride, padding = shape
    module, a, gb = module_of(
        Convolution(n, c, height, width, f, kernel, stride, padding), seed, adds=adds
    )
    assert module.work.size <= convolution_scratch(n, c, height, width, f, kernel, stride, padding)
    x = torch.tensor(samples_first(a), requires_grad=True)
    weight = torch.tensor(module.weight.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    bias = torch.tensor(module.bias, requires_grad=True)
    theirs = torch.nn.functional.conv2d(x, weight, bias, stride, padding)
    theirs.backward(torch.tensor(samples_first(gb)))
    np.testing.assert_allclose(
        module.forward(a), samples_last(theirs.detach().numpy()), rtol=0, atol=ROUNDING
    )
    for _ in range(2):  # the second time on what the first has bound
        for gradient in (module.grad_weight, module.grad_bias, module.grad_input):
            assert gradient is not None
            gradient.fill(0.5)
        found = module.backward(gb)
    assert found is not None
    start = 0.5 * adds
    for ours, expected in (
        (found, samples_last(x.grad.numpy())),
        (module.grad_weight, weight.grad.numpy().transpose(0, 2, 3, 1)),
        (module.grad_bias, bias.grad.numpy()),
    ):
        np.testing.assert_allclose(ours, expected + start, rtol=0, atol=ROUNDING)


def test_first_layer_without_bias_gives_no_input_gradient() -> None:
    of = Convolution(2, 1, 5, 5, 3, (3, 3), (2, 2))
    a, weight, _, gb = drawn(of, 0)
    module = Conv2d(
        weight, None, np.empty_like(weight), None, np.empty_like(gb), np.empty(of.scratch), (2, 2)
    )
    np.testing.assert_allclose(module.forward(a), directly(a, weight, of), rtol=0, atol=ROUNDING)
    assert module.backward(gb) is None


def test_too_little_scratch_is_refused() -> None:
    of = Convolution(2, 1, 5, 5, 3, (3, 3))
    a, weight, _, gb = drawn(of, 0)
    with pytest.raises(AssertionError):
        Conv2d(weight, None, weight, None, gb, np.empty(of.scratch - 1), grad_input=a)


@pytest.mark.parametrize("channels", [3, 16])
def test_float32_is_float64_rounded(channels: int) -> None:
    of = Convolution(16, channels, 8, 8, 16, (3, 3), (1, 1), (1, 1))
    whole, a, gb = module_of(of, 0)
    whole.forward(a)
    whole.backward(gb)
    weight, bias = (x.astype(np.float32) for x in (whole.weight, whole.bias))
    half = Conv2d(
        weight, bias, np.empty_like(weight), np.empty_like(bias), np.empty(gb.shape, np.float32),
        np.full(of.scratch, np.nan, np.float32), of.stride, of.padding, np.empty(a.shape, np.float32),
    )  # fmt: skip
    half.forward(a.astype(np.float32))
    half.backward(gb.astype(np.float32))
    for found, expected in (
        (half.output, whole.output), (half.grad_weight, whole.grad_weight), (half.grad_input, whole.grad_input),
    ):  # fmt: skip
        assert found is not None
        assert expected is not None
        # At most 1024 terms of numbers below 20, each rounded thrice to 6e-8: below 4e-3 if all
        # errors agreed; they do not, and a wrong term would be of order one.
        np.testing.assert_allclose(found, expected, rtol=0, atol=4e-3)
