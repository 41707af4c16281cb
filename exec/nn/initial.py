"""Initial weights, seeded by (seed, layer), never by rank: every mesh starts from the same bits."""

from typing import Any

import numpy as np

from exec.nn.backend import Array


def initial_weights(
    seed: int, layer: int, inputs: int, units: int, dtype: type[np.floating[Any]], start: int = 0
) -> Array:
    """Return the (units, inputs) weights of ``layer``; biases start at zero.

    Starts other than 0 are independent of each other. Uniform on +- sqrt(6 / (inputs + units)), drawn in float64 and rounded.

    Source: X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS 2010, equation 16.
    """
    seeds = np.random.SeedSequence([seed, layer, start] if start else [seed, layer])
    generator = np.random.Generator(np.random.PCG64(seeds))
    bound = (6.0 / (inputs + units)) ** 0.5
    return generator.uniform(-bound, bound, (units, inputs)).astype(dtype)
