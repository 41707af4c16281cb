"""Jitter: what noise does to a step, drawn from seeds and in closed form.

A step that all ranks must end takes as long as the slowest of them. The expected largest of P
independent factors is

    E[max] = integral of x d F(x)^P

With F(x)^P = exp(-exp(-g)) the integral is over Gumbel's density of g, which is smooth and falls off
on both sides, so that sums over equal steps of g converge faster than any power of them.

Source: H. A. David and H. N. Nagaraja, "Order Statistics", 3rd edition, Wiley 2003, chapters 2
(moments) and 10 (Gumbel's limit); L. N. Trefethen and J. A. C. Weideman, "The exponentially
convergent trapezoidal rule", SIAM Review 56 (2014) 385-458.
"""

import numpy as np
from numpy.typing import NDArray

from exec.noise import Noise

Array = NDArray[np.float64]

_STREAM = 1 << 34  # apart from the streams of the trainer


def paces(noise: Noise, seed: int, ranks: int, turns: int, replicas: int = 1) -> Array:
    """Return by how much each rank's turns differ, of shape ``(replicas, ranks, turns)``.

    They are independent. The same arguments give the same numbers, and those of the first ranks do
    not depend on how many there are.
    """
    seeds = np.random.SeedSequence([seed, _STREAM])
    generator = np.random.Generator(np.random.PCG64(seeds))
    return noise.draw(generator, (ranks, replicas, turns)).transpose(1, 0, 2)
