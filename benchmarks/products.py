"""The matrix products of a step of dense layers alone: the bound for any trainer on this BLAS."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from exec.network.modules import Linear, Sigmoid
from exec.network.network import Network
from exec.runtime.buffers import Buffers
from exec.runtime.pieces import pieces

Call = Callable[[], object]


def is_dense(network: Network) -> bool:
    """Say whether the network is made of dense layers and sigmoids in a row."""
    nodes = enumerate(network.nodes)
    return all(isinstance(node.module, Linear | Sigmoid) and node.inputs == (i - 1,) for i, node in nodes)  # fmt: skip


def products_turn(calls: list[Call], batches: Sequence[object]) -> float:
    """Take a turn with the matrix products, as many as ``batches`` are."""
    start_s = 0.0
    for i in range(len(batches)):
        if i == 1:
            start_s = perf_counter()
        for call in calls:
            call()
    return perf_counter() - start_s


def products(buffers: Buffers, batch: int) -> list[Call]:
    """Return the matrix products of a step of ``batch`` samples, on the arrays of ``buffers``.

    The network must be dense. They leave the parameters alone, and a step computes all else anew.
    """
    layout = buffers.layout
    shards = [shard for shard in layout.shards if shard.is_weighted]
    homes = [layout.places.home[shard.node] for shard in shards]
    outputs, grads = (
        [buffers.matrix(_slotted(buffers, name_of(home)), shard.num_outputs, batch) for home, shard in zip(homes, shards, strict=True)]
        for name_of in (layout.buffer, layout.gradient)
    )  # fmt: skip
    inputs = [buffers.matrix("x.0", batch, shards[0].num_inputs).T, *outputs]
    calls: list[Call] = []
    weights = [pieces(layout, shard, buffers.parameters)[0] for shard in shards]
    for weight, a, b in zip(weights, inputs, outputs, strict=False):
        calls.append(partial(np.dot, weight, a, out=b))
    for i in reversed(range(len(shards))):
        grad_weight, _ = pieces(layout, shards[i], buffers.arrays["grad"])
        calls.append(partial(np.dot, grads[i], inputs[i].T, out=grad_weight))
        if i > 0:
            calls.append(partial(np.dot, weights[i].T, grads[i], out=grads[i - 1]))
    return calls


def _slotted(buffers: Buffers, name: str) -> str:
    return f"{name}.0" if buffers.layout.has_slots(name) else name
