"""Features: what the time of a kernel is made of, as numbers of a shape.

A time is a sum of non-negative coefficients times these: one fixed cost per op, the multiply-adds
``nkm``, each operand's size (matrix products pack and write them), the rows and columns that
NumPy loops over, and for what streams weights, the part that no cache holds. The last is
``size * max(0, 1 - cache / working_set)``: with least-recently-used caching of a working set that
is swept once a step, that share misses.
"""

from exec.program.ops import Kernel, Shape


def features(
    kernel: Kernel, shape: Shape, working_set: int, caches: tuple[int, int]
) -> dict[str, float]:
    """Return the features of ``kernel`` on ``shape``, for a rank that holds ``working_set`` bytes.

    >>> features(Kernel.ACCUMULATE, Shape(0, 0, 10), 1000, (500, 2000))
    {'fixed': 1.0, 'm': 10, 'm_inner_miss': 5.0, 'm_outer_miss': 0.0}
    """
    n, k, m = shape.n, shape.k, shape.m
    inner, outer = (max(0.0, 1.0 - cache / max(working_set, 1)) for cache in caches)
    match kernel:
        case Kernel.LOAD:
            return {"fixed": 1.0, "n": n, "nk": n * k, "nm": n * m}
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD | Kernel.LINEAR_BACKWARD_FIRST:
            return {
                "fixed": 1.0, "nkm": n * k * m, "nk": n * k, "km": k * m, "nm": n * m,
                "k": k, "m": m, "km_inner_miss": k * m * inner, "km_outer_miss": k * m * outer,
            }  # fmt: skip
        case Kernel.SIGMOID | Kernel.SIGMOID_BACKWARD:
            return {"fixed": 1.0, "nm": n * m, "nm_inner_miss": n * m * inner}
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
