"""Features: what the time of a kernel is made of, as numbers of a shape.

A time is a sum of non-negative coefficients times these: one fixed cost per op, the multiply-adds
(``nkm``, of images ``npkm``), each operand's size (matrix products pack and write them), the rows
and columns that NumPy loops over, and for what streams from memory, the part that no cache holds.
The last is ``size * max(0, 1 - cache / working_set)``: with least-recently-used caching of a
working set that is swept once a step, that share misses. The letters are those of
:class:`exec.program.ops.Shape`; ``c`` are the channels of a convolution's input, ``k / w``.
"""

from exec.program.ops import Kernel, Shape


def features(
    kernel: Kernel, shape: Shape, working_set: int, caches: tuple[int, int]
) -> dict[str, float]:
    """Return the features of ``kernel`` on ``shape``, for a rank that holds ``working_set`` bytes.

    >>> features(Kernel.ACCUMULATE, Shape(0, 0, 10), 1000, (500, 2000))
    {'fixed': 1.0, 'm': 10, 'm_inner_miss': 5.0, 'm_outer_miss': 0.0}
    """
    n, k, m, p, q, w = shape.n, shape.k, shape.m, shape.p, shape.q, shape.w
    inner, outer = (max(0.0, 1.0 - cache / max(working_set, 1)) for cache in caches)
    match kernel:
        case Kernel.LOAD:
            return {"fixed": 1.0, "n": n, "nk": n * k, "nm": n * m}
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD | Kernel.LINEAR_BACKWARD_FIRST:
            return {
                "fixed": 1.0, "nkm": n * k * m, "nk": n * k, "km": k * m, "nm": n * m,
                "k": k, "m": m, "km_inner_miss": k * m * inner, "km_outer_miss": k * m * outer,
            }  # fmt: skip
        case Kernel.CONV | Kernel.CONV_BACKWARD | Kernel.CONV_BACKWARD_FIRST:
            inputs = n * q * k / w
            return {
                "fixed": 1.0, "w": w, "npkm": n * p * k * m, "npk": n * p * k, "npm": n * p * m,
                "nqc": inputs, "km": k * m, "npk_outer_miss": n * p * k * outer,
                "npm_outer_miss": n * p * m * outer, "nqc_outer_miss": inputs * outer,
                "km_outer_miss": k * m * outer,
            }  # fmt: skip
        case Kernel.SIGMOID | Kernel.SIGMOID_BACKWARD:
            return {"fixed": 1.0, "nm": n * m, "nm_inner_miss": n * m * inner}
        case Kernel.RELU | Kernel.RELU_BACKWARD | Kernel.ADD | Kernel.ADD_BACKWARD:
            return {
                "fixed": 1.0, "nm": n * m, "nm_inner_miss": n * m * inner,
                "nm_outer_miss": n * m * outer,
            }  # fmt: skip
        case Kernel.TRANSPOSE | Kernel.TRANSPOSE_BACKWARD:
            outputs = n * m * p
            return {
                "fixed": 1.0, "npm": outputs, "npm_inner_miss": outputs * inner,
                "npm_outer_miss": outputs * outer,
            }  # fmt: skip
        case (
            Kernel.BATCHNORM_SUMS
            | Kernel.BATCHNORM
            | Kernel.BATCHNORM_BACKWARD_SUMS
            | Kernel.BATCHNORM_BACKWARD
        ):
            outputs = n * m * p
            return {
                "fixed": 1.0, "m": m, "npm": outputs, "npm_inner_miss": outputs * inner,
                "npm_outer_miss": outputs * outer,
            }  # fmt: skip
        case (
            Kernel.MAXPOOL | Kernel.MAXPOOL_BACKWARD | Kernel.AVGPOOL | Kernel.AVGPOOL_BACKWARD
        ):
            inputs, outputs = n * m * q, n * m * p
            return {
                "fixed": 1.0, "w": w, "npmw": outputs * w, "npm": outputs, "nqm": inputs,
                "npm_outer_miss": outputs * outer, "nqm_outer_miss": inputs * outer,
            }  # fmt: skip
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
