"""Inference: a network evaluated on images, chunk by chunk, in a few arrays used again and again.

A value's array is free for another as soon as nobody has still to read it, and what can be done in
place is. Normalisations use their running statistics.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from exec.network.modules import Add, BatchNorm2d, Flatten, Linear, ReLU, Sigmoid
from exec.network.network import INPUT, Network
from exec.network.scratch import scratch_elements
from exec.nn import modules
from exec.nn.backend import Array, Call, Indices, xp
from exec.nn.weights import NodeWeights, Weights

MAX_CHUNK = 1024
MAX_NBYTES = 64 << 20
"""A chunk has as many samples as fit into so many bytes, but one at least."""

IMAGES = -1
"""The room of images that are used as they come, samples first."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """``of`` maps each value to the room its array is in; ``sizes`` are those for one sample."""

    of: dict[int, int]
    sizes: list[int]


def num_correct(weights: Weights, images: Array, labels: Indices) -> int:
    """Return for how many of ``images``, (samples, features), the likeliest class is the label."""
    rows = chunk_rows(weights.network, weights.parameters.itemsize)
    correct, start = 0, 0
    for logits in evaluate(weights, images, rows):
        stop = start + logits.shape[1]
        correct += int((logits.argmax(axis=0) == labels[start:stop]).sum())
        start = stop
    return correct


def chunk_rows(network: Network, itemsize: int) -> int:
    """Return how many images to evaluate at a time."""
    elements = sum(rooms_of(network).sizes) + _scratch(network, 1)
    return max(1, min(MAX_CHUNK, MAX_NBYTES // (elements * itemsize)))


def evaluate(weights: Weights, images: Array, rows: int) -> Iterator[Array]:
    """Yield the logits, (classes, samples), of ``rows`` images at a time; the next overwrite them."""
    rooms = rooms_of(weights.network)
    dtype = weights.parameters.dtype
    rows = min(rows, len(images))
    arrays = [xp.empty(size * rows, dtype) for size in rooms.sizes]
    scratch = xp.empty(_scratch(weights.network, rows), dtype)
    for start in range(0, len(images), max(rows, 1)):
        chunk = images[start : start + rows]
        if start == 0 or len(chunk) < rows:
            bound = _Bound(weights, rooms, arrays, scratch, len(chunk))
        yield bound.run(chunk)
