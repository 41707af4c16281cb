"""The matrix products of a training step alone: the bound for any trainer on the same BLAS."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from exec.runtime.buffers import Buffers

Call = Callable[[], object]


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

    They leave the parameters alone, and a step computes all else anew.
    """
    shards = buffers.layout.shards
    outputs = [buffers.matrix(f"a{shard.layer}.0", shard.num_units, batch) for shard in shards]
    inputs = [buffers.matrix("x.0", batch, shards[0].num_inputs).T, *outputs]
    grads = [buffers.matrix(f"g{shard.layer}", shard.num_units, batch) for shard in shards[:-1]]
    grads.append(outputs[-1])
    calls: list[Call] = []
    for shard, a, b in zip(shards, inputs, outputs, strict=False):
        calls.append(partial(np.dot, buffers.weight(buffers.parameters, shard), a, out=b))
    for shard in reversed(shards):
        i = shard.layer
        grad_weight = buffers.weight(buffers.arrays["grad"], shard)
        calls.append(partial(np.dot, grads[i], inputs[i].T, out=grad_weight))
        if i > 0:
            weight = buffers.weight(buffers.parameters, shard)
            calls.append(partial(np.dot, weight.T, grads[i], out=grads[i - 1]))
    return calls
