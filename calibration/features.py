"""Features: what the time of a kernel is made of, as numbers of a shape.

A time is a sum of non-negative coefficients times these: one fixed cost per op, the multiply-adds
(``nkm``, of images ``npkm``), each operand's size (matrix products pack and write them), the rows
and columns that NumPy loops over, and for what streams from memory, the part that no cache holds.
The last is ``size * max(0, 1 - cache / working_set)``: with least-recently-used caching of a
working set that is swept once a step, that share misses. The letters are those of
:class:`exec.program.ops.Shape`; ``c`` are the channels of an image that is convolved, ``k / w``.
"""

from calibration.windows import convolution_of, window_of
from exec.network.scratch import BLOCK
from exec.program.ops import Kernel, Shape

Features = dict[str, float]


def features(kernel: Kernel, shape: Shape, working_set: int, caches: tuple[int, int]) -> Features:
    """Return the features of ``kernel`` on ``shape``, for a rank that holds ``working_set`` bytes.

    >>> features(Kernel.ACCUMULATE, Shape(0, 0, 10), 1000, (500, 2000))
    {'fixed': 1.0, 'm': 10, 'm_inner_miss': 5.0, 'm_outer_miss': 0.0}
    """
    n, k, m = shape.n, shape.k, shape.m
    inner, outer = (max(0.0, 1.0 - cache / max(working_set, 1)) for cache in caches)
    match kernel:
        case Kernel.LOAD:
            turned = n * k if shape.q > 1 else 0
            return {"fixed": 1.0, "n": n, "nk": n * k, "nm": n * m, "nk_turned": turned}
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD | Kernel.LINEAR_BACKWARD_FIRST:
            return {
                "fixed": 1.0, "nkm": n * k * m, "nk": n * k, "km": k * m, "nm": n * m,
                "k": k, "m": m, "km_inner_miss": k * m * inner, "km_outer_miss": k * m * outer,
            }  # fmt: skip
        case Kernel.CONV | Kernel.CONV_BACKWARD | Kernel.CONV_BACKWARD_FIRST:
            return _convolution(shape, inner, outer)
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
            return _pooling(shape, inner, outer)
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


def _convolution(shape: Shape, inner: float, outer: float) -> Features:
    """Return the features of a convolution, which has two ways (:mod:`exec.nn.convolution`).

    By rows, every row of the output is a product for each position of the window, of what lies
    in the image. By gathered patches, the window's positions are copied, ``runs`` of numbers at a
    time, into fewer and larger products.
    """
    n, k, m, p, q, w = shape.n, shape.k, shape.m, shape.p, shape.q, shape.w
    window, way = window_of(shape), convolution_of(shape)
    outputs, products, patches = n * p * m, n * p * k * m, n * p * k
    inputs = n * k // w * min(q, p * w)
    found = {
        "fixed": 1.0, "nqc": inputs, "npm": outputs, "km": k * m,
        "nqc_miss": inputs * outer, "npm_miss": outputs * outer, "km_miss": k * m * inner,
    }  # fmt: skip
    rows, inside = window.output * window.inside, window.inside**2
    by_rows = {
        "calls": rows * w, "npkm": products * inside, "npk": patches * inside,
        "npmw": outputs * w * inside, "rows_km": rows * k * m, "copies": inputs + outputs,
    }  # fmt: skip
    group, height = way.patch_block
    blocks = -(-way.output_height // height)
    run_length = window.output if window.stride == 1 else 1.0
    by_patches = {
        "calls": blocks * (w + -(-w // group)), "npkm": products, "npk": patches, "runs": p * k / run_length,
        "blocks_km": blocks * k * m, "copies": outputs,
    }  # fmt: skip
    gathers = way.gathers_patches
    found |= {f"row_{name}": 0.0 if gathers else value for name, value in by_rows.items()}
    found |= {f"patch_{name}": value if gathers else 0.0 for name, value in by_patches.items()}
    return found


def _pooling(shape: Shape, inner: float, outer: float) -> Features:
    """Return the features of a pooling: ``runs`` are the numbers that lie together in a window."""
    n, m, p, q, w = shape.n, shape.m, shape.p, shape.q, shape.w
    window = window_of(shape)
    run_length = window.output if window.stride == 1 else 1.0
    inputs, outputs = n * m * q, n * m * p
    return {
        "fixed": 1.0, "m": m, "w": w, "runs": m * p * w / run_length, "npmw": outputs * w,
        "npm": outputs, "nqm": inputs, "nqm_inner_miss": inputs * inner, "nqm_outer_miss": inputs * outer,
    }  # fmt: skip


LATER = {Kernel.LOAD: {"nk_turned"}}
"""Features that came later: a Machine older than one has no coefficient for it."""
