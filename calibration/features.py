"""Features: what the time of a kernel is made of, as numbers of a shape.

A time is a sum of non-negative coefficients times these: one fixed cost per op, the multiply-adds
(``nkm``, of images ``npkm``), each operand's size (matrix products pack and write them), the rows
and columns that NumPy loops over, and for what streams from memory, the part that no cache holds.
The last is ``size * max(0, 1 - cache / working_set)``: with least-recently-used caching of a
working set that is swept once a step, that share misses. The letters are those of
:class:`exec.program.ops.Shape`; ``c`` are the channels of an image that is convolved, ``k / w``.
Those are a CPU's; a GPU's are in :mod:`calibration.gpu_features`.
"""

from calibration.gpu_features import gpu_features
from calibration.processor import CPU, Processor
from calibration.windows import Window, convolution_of, window_of
from exec.network.scratch import BLOCK
from exec.program.ops import Kernel, Shape

Features = dict[str, float]


def features(
    kernel: Kernel, shape: Shape, working_set: int, caches: tuple[int, int], processor: Processor = CPU
) -> Features:  # fmt: skip
    """Return the features of ``kernel`` on ``shape``, for a rank that holds ``working_set`` bytes.

    >>> features(Kernel.ACCUMULATE, Shape(0, 0, 10), 1000, (500, 2000))
    {'fixed': 1.0, 'm': 10, 'm_inner_miss': 5.0, 'm_outer_miss': 0.0}
    """
    return features_missing(kernel, shape, missed(working_set, caches), caches, processor)


def features_missing(
    kernel: Kernel, shape: Shape, shares: tuple[float, float], caches: tuple[int, int], processor: Processor = CPU
) -> Features:  # fmt: skip
    """Return the features of ``kernel`` on ``shape`` where the caches miss ``shares`` of what is held.

    They are linear in the shares.
    """
    n, k, m = shape.n, shape.k, shape.m
    inner, outer = shares
    if processor.device.has_streams:
        return gpu_features(kernel, shape, inner, caches[0], processor.num_multiprocessors)
    match kernel:
        case Kernel.LOAD:
            is_turned = float(shape.q > 1)
            return {
                "fixed": 1.0, "n": n, "nk": n * k, "nm": n * m,
                "turned": is_turned, "nk_turned": n * k * is_turned,
            }  # fmt: skip
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD | Kernel.LINEAR_BACKWARD_FIRST:
            return {
                "fixed": 1.0, "nkm": n * k * m, "nk": n * k, "km": k * m, "nm": n * m,
                "k": k, "m": m, "km_inner_miss": k * m * inner, "km_outer_miss": k * m * outer,
            }  # fmt: skip
        case Kernel.CONV | Kernel.CONV_BACKWARD | Kernel.CONV_BACKWARD_FIRST:
            return _convolution(kernel, shape, caches, inner, outer)
        case Kernel.SIGMOID | Kernel.SIGMOID_BACKWARD:
            return {"fixed": 1.0, "nm": n * m, "nm_inner_miss": n * m * inner}
        case (
            Kernel.RELU
            | Kernel.RELU_BACKWARD
            | Kernel.ADD
            | Kernel.ADD_BACKWARD
            | Kernel.TRANSPOSE
            | Kernel.TRANSPOSE_BACKWARD
        ):
            return {
                "fixed": 1.0, "nm": n * m, "nm_inner_miss": n * m * inner,
                "nm_outer_miss": n * m * outer,
            }  # fmt: skip
        case (
            Kernel.BATCHNORM_SUMS
            | Kernel.BATCHNORM
            | Kernel.BATCHNORM_BACKWARD_SUMS
            | Kernel.BATCHNORM_BACKWARD
        ):
            outputs = n * m * shape.p
            pieces = m * -(-n * shape.p // BLOCK)
            return {
                "fixed": 1.0, "m": m, "pieces": pieces, "npm": outputs,
                "npm_inner_miss": outputs * inner, "npm_outer_miss": outputs * outer,
            }  # fmt: skip
        case Kernel.MAXPOOL | Kernel.MAXPOOL_BACKWARD | Kernel.AVGPOOL | Kernel.AVGPOOL_BACKWARD:
            return _pooling(kernel, shape, inner, outer)
        case Kernel.LOSS:
            return {"fixed": 1.0, "n": n, "m": m, "nm": n * m}
        case Kernel.UPDATE:
            velocity = m if k else 0
            return {
                "fixed": 1.0, "m": m, "m_inner_miss": m * inner, "m_outer_miss": m * outer,
                "momentum": float(bool(k)), "velocity": velocity,
                "velocity_inner_miss": velocity * inner, "velocity_outer_miss": velocity * outer,
            }  # fmt: skip
        case Kernel.ACCUMULATE:
            return {"fixed": 1.0, "m": m, "m_inner_miss": m * inner, "m_outer_miss": m * outer}


def missed(working_set: int, caches: tuple[int, int]) -> tuple[float, float]:
    """Return the shares of a working set that the inner and the outer cache miss."""
    inner, outer = (max(0.0, 1.0 - cache / max(working_set, 1)) for cache in caches)
    return inner, outer


def _convolution(
    kernel: Kernel, shape: Shape, caches: tuple[int, int], inner: float, outer: float
) -> Features:
    """Return the features of a convolution, which has two ways (:mod:`exec.nn.convolution`).

    By rows, every row of the output is a product for each position of the window, of what lies
    in the image; gradients of few units are divided into ``blocks`` more. By gathered patches, the
    window's positions are copied, into fewer and larger products, a group of which may be more
    than a cache holds; what is copied at a time is a ``run`` of numbers that lie together.
    """
    n, k, m, p, q, w = shape.n, shape.k, shape.m, shape.p, shape.q, shape.w
    window, way, channels = window_of(shape), convolution_of(shape), k // w
    outputs, products, patches = n * p * m, n * p * k * m, n * p * k
    inputs = n * channels * min(q, p * w)
    found = {
        "fixed": 1.0, "nqc": inputs, "npm": outputs, "km": k * m,
        "nqc_miss": inputs * outer, "npm_miss": outputs * outer, "km_miss": k * m * inner,
    }  # fmt: skip
    rows, inside = window.output * window.inside, window.inside**2
    blocks = -(-m // _SIDE) * -(-channels // _SIDE) if max(m, channels) <= _FEW else 1
    by_rows = {
        "calls": rows * w, "blocks": rows * w * (blocks - 1),
        "copies": inputs + outputs,
        "npkm": products * inside, "npk": patches * inside, "npmw": outputs * w * inside,
        "rows_km": rows * k * m,
    }  # fmt: skip
    group, height = way.patch_block
    tall = -(-way.output_height // height)
    missing = max(0.0, 1.0 - caches[0] / (_ITEMSIZE * group * channels * height * max(way.row, 1)))
    by_patches = {
        "calls": tall * (w + -(-w // group)), "runs": p * k / _run_length(window, n),
        "copies": outputs, "npkm": products, "npk": patches, "npk_miss": patches * missing,
        "blocks_km": tall * k * m,
    }  # fmt: skip
    if kernel is Kernel.CONV_BACKWARD_FIRST:  # images seldom have many channels: few samples
        by_rows = {name: by_rows[name] for name in ("calls", "copies", "npkm", "npmw")}
    gathers = way.gathers_patches
    found |= {f"row_{name}": 0.0 if gathers else value for name, value in by_rows.items()}
    found |= {f"patch_{name}": value if gathers else 0.0 for name, value in by_patches.items()}
    return found


def _pooling(kernel: Kernel, shape: Shape, inner: float, outer: float) -> Features:
    """Return the features of a pooling; the mean of a ``whole`` image is done in another way."""
    n, m, p, q, w = shape.n, shape.m, shape.p, shape.q, shape.w
    inputs, outputs = n * m * q, n * m * p
    is_whole = p == 1 and kernel in (Kernel.AVGPOOL, Kernel.AVGPOOL_BACKWARD)
    whole = {"m": m, "runs": m * q, "nqm": inputs}
    runs = m * p * w / _run_length(window_of(shape), n)
    windows = {"w": w, "runs": runs, "npmw": outputs * w, "npm": outputs, "nqm": inputs}
    found = {"fixed": 1.0, "nqm_inner_miss": inputs * inner, "nqm_outer_miss": inputs * outer}
    found |= {f"whole_{name}": value if is_whole else 0.0 for name, value in whole.items()}
    return found | {name: 0.0 if is_whole else value for name, value in windows.items()}


def _run_length(window: Window, n: int) -> float:
    """Return how many positions are copied at a time: samples come last, so all of a row, or one."""
    return window.output if window.stride == 1 or n == 1 else 1.0


_SIDE, _FEW, _ITEMSIZE = 32, 128, 4

LATER = {Kernel.LOAD: {"turned", "nk_turned"}}
"""Features that came later: a Machine older than one has no coefficient for it."""
