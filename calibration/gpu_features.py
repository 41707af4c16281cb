"""Features on a GPU: what the time of a kernel is made of there.

A launch has a fixed part. A product is done in whole tiles, which a GPU works on as many at a time
as it has multiprocessors, in whole waves; one of few tiles waits for the ``depth`` of its sums.
What is moved comes from the memory, or, where it fits, from the second-level cache: what a kernel
itself moves (``streamed`` is the part that does not fit), or what was left there by the step before
(``missed``). Features count elements and flops; the letters are those of
:class:`exec.program.ops.Shape`.

Source of tiles and waves: NVIDIA, "Matrix Multiplication Background User's Guide" (2023), sections
Tile Quantization and Wave Quantization.
"""

import math
from functools import lru_cache

from exec.program.ops import Kernel, Shape
from exec.workload import kernel_elements

Product = tuple[int, int, int]
"""Rows, columns and the length of each sum."""

TILES = ((128, 1.0), (64, 1.2), (32, 1.6))
"""Sides of tiles, and by how much more a multiply-add costs in them, for smaller ones read their
factors more often. Assumed: how small a library's are, and so what they cost, a fit finds."""
_SHORTEST_SUM = 256  # below it libraries do not divide a sum among blocks
_MOST_PARTS = 32
_ITEMSIZE = 4


def gpu_features(
    kernel: Kernel, shape: Shape, missed: float, cache: int, num_multiprocessors: int
) -> dict[str, float]:
    """Return the features of ``kernel`` on ``shape``; the cache of ``cache`` bytes lost the share ``missed``.

    >>> gpu_features(Kernel.ACCUMULATE, Shape(0, 0, 10), 0.5, 1 << 20, 132)
    {'fixed': 1.0, 'moved': 30, 'moved_streamed': 0.0, 'moved_missed': 15.0}
    """
    n, k, m, p, w = shape.n, shape.k, shape.m, shape.p, shape.w
    moved = _moved(kernel, shape)
    streamed = max(0.0, 1.0 - cache / (_ITEMSIZE * max(moved, 1)))
    found = {
        "fixed": 1.0, "moved": moved, "moved_streamed": moved * streamed, "moved_missed": moved * missed,
    }  # fmt: skip
    match kernel:
        case Kernel.LINEAR | Kernel.LINEAR_BACKWARD | Kernel.LINEAR_BACKWARD_FIRST:
            return found | _products(_dense_products(kernel, shape), num_multiprocessors)
        case Kernel.CONV | Kernel.CONV_BACKWARD | Kernel.CONV_BACKWARD_FIRST:
            products = _products(_convolution_products(kernel, shape), num_multiprocessors)
            return found | products | {"patches": n * p * k}
        case (
            Kernel.BATCHNORM_SUMS
            | Kernel.BATCHNORM
            | Kernel.BATCHNORM_BACKWARD_SUMS
            | Kernel.BATCHNORM_BACKWARD
        ):
            return found | {"m": m, "channel_waves": n * p * -(-m // num_multiprocessors)}
        case Kernel.MAXPOOL | Kernel.MAXPOOL_BACKWARD | Kernel.AVGPOOL | Kernel.AVGPOOL_BACKWARD:
            return found | {"windows": n * m * p * w}
        case Kernel.LOAD:
            return found | {"turned": n * k if shape.q > 1 else 0}
        case Kernel.LOSS:
            return found | {"m": m}
        case Kernel.UPDATE:
            return found | {"velocity": m if k else 0}
        case _:
            return found


def _moved(kernel: Kernel, shape: Shape) -> int:
    """Return how many elements a kernel reads and writes, a velocity apart."""
    match kernel:
        case Kernel.LOAD:  # labels are looked up, not written out
            return shape.n * (2 * shape.k + 1)
        case Kernel.UPDATE:
            return 3 * shape.m
        case _:
            return kernel_elements(kernel, shape)


def _products(products: list[Product], num_multiprocessors: int) -> dict[str, float]:
    found: dict[str, float] = {"flops": sum(2 * math.prod(product) for product in products)}
    for least, _ in TILES:
        tilings = [tiling(*product, least, num_multiprocessors) for product in products]
        found[f"wave_flops_{least}"] = sum(flops for flops, _ in tilings)
    return found | {"depth": sum(depth for _, depth in tilings)}


@lru_cache(maxsize=65536)
def tiling(
    rows: int, columns: int, length: int, least: int, num_multiprocessors: int
) -> tuple[float, float]:
    """Return the flops of a product in whole waves of whole tiles, and how many steps a block sums.

    A library is taken to choose the tiles, of sides of ``least`` or more, and the parts that long
    sums are divided into, that end first. The flops are those that all multiprocessors could do
    meanwhile.

    >>> tiling(128 * 12, 128 * 11, 100, 32, 132) == (2 * 128 * 12 * 128 * 11 * 100, 100)
    True
    >>> tiling(128 * 12, 128 * 11 + 1, 100, 32, 132)[0] > 1.2 * 2 * 128 * 12 * 128 * 11 * 100
    True
    """
    best = math.inf, 0.0
    for side, cost in TILES:
        if side < least:
            break
        tiles = -(-rows // side) * -(-columns // side)
        parts = 1
        while parts == 1 or (parts <= _MOST_PARTS and length >= parts * _SHORTEST_SUM):
            steps = length / parts * -(-tiles * parts // num_multiprocessors)
            best = min(best, (2.0 * cost * side * side * steps * num_multiprocessors, steps))
            parts *= 2
    return best


def _dense_products(kernel: Kernel, shape: Shape) -> list[Product]:
    """Return the products of a dense layer: each pass back is two, of weights and of inputs."""
    n, k, m = shape.n, shape.k, shape.m
    weights, inputs = (m, k, n), (k, n, m)
    match kernel:
        case Kernel.LINEAR:
            return [(m, n, k)]
        case Kernel.LINEAR_BACKWARD_FIRST:
            return [weights]
        case _:
            return [weights, inputs]


def _convolution_products(kernel: Kernel, shape: Shape) -> list[Product]:
    """Return the products that a convolution amounts to; positions that a stride skips cost nothing."""
    n, k, m, p, q, w = shape.n, shape.k, shape.m, shape.p, shape.q, shape.w
    weights, inputs = (m, k, n * p), (k // w, n * q, max(1, m * w * p // q))
    match kernel:
        case Kernel.CONV:
            return [(m, n * p, k)]
        case Kernel.CONV_BACKWARD_FIRST:
            return [weights]
        case _:
            return [weights, inputs]
