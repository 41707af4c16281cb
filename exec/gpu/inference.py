"""Inference on a device: how many of many images a network gets right, chunk by chunk."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream, zeros
from exec.gpu.calls import in_turn
from exec.gpu.evaluation import Evaluation, learnt_of, places_of, work_elements
from exec.gpu.images import Images, Order
from exec.network.network import Network

MAX_NBYTES = 512 << 20
"""A chunk has as many images as fit into so many bytes, but one at least."""

_MAX_ROWS = 2**14
_THREADS = 256


def num_correct(
    stream: Stream, network: Network, parameters: NDArray[Any], stats: NDArray[Any],
    images: DeviceArray | NDArray[Any], labels: NDArray[Any], dtype: DTypeLike,
) -> int:  # fmt: skip
    """Return for how many of ``images``, (samples, features), the likeliest class is the label.

    ``parameters`` are flat, the first node first, each one's weights before its biases; ``stats``
    are its running means before its variances. Images on the device are of ``dtype``.
    """
    device, num, dtype = stream.device, len(images), np.dtype(dtype)
    if not num:
        return 0
    flat, running = (
        device.upload(np.ascontiguousarray(each, dtype)) for each in (parameters, stats)
    )
    rows = min(chunk_rows(network, dtype.itemsize), num)
    evaluation = Evaluation.of(stream, network, learnt_of(network, flat, running), rows, dtype)
    expected, correct = device.upload(labels.astype(np.int32)), zeros(device, 1, np.int32)
    run, logits = evaluation.bind(rows)
    for start in range(0, num, rows):
        stop = min(start + rows, num)
        if stop - start < rows:
            run, logits = evaluation.bind(stop - start)
        staged, chunk = evaluation.staged[: stop - start], images[start:stop]
        if isinstance(chunk, DeviceArray):
            stream.bind_copy(chunk, staged)()
        else:
            device.write(staged, np.ascontiguousarray(chunk, dtype))
        in_turn(run, _count(stream, logits, expected[start:stop], correct))()
    return int(device.read(correct)[0])


def chunk_rows(network: Network, itemsize: int) -> int:
    """Return how many images to evaluate at a time."""
    rows, elements = _MAX_ROWS, sum(places_of(network).sizes) + network.num_features
    while rows > 1 and (elements * rows + work_elements(network, rows)) * itemsize > MAX_NBYTES:
        rows //= 2
    return rows


def _count(stream: Stream, logits: Images, labels: DeviceArray, correct: DeviceArray) -> Call:
    """Return the call that adds to ``correct`` how many likeliest classes are the labels."""
    is_last = logits.order is Order.CHANNELS_LAST
    strides = (1, logits.channels) if is_last else (logits.samples, 1)
    return stream.bind_kernel(
        "count_correct", logits.array.dtype, (-(-logits.samples // _THREADS),), (_THREADS,),
        logits.array, labels, logits.samples, logits.channels, *strides, correct,
    )  # fmt: skip
