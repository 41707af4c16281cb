"""Inference on a device: how many of many images a network gets right, chunk by chunk."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream, zeros
from exec.gpu.calls import in_turn
from exec.gpu.evaluation import Evaluation, learnt_of, places_of, work_elements
from exec.gpu.images import Images, Order
from exec.network.modules import BatchNorm2d
from exec.network.network import Network

MAX_NBYTES = 512 << 20
"""A chunk has as many images as fit into so many bytes, but one at least."""

_MAX_ROWS = 2**14
_THREADS = 256


class Inference:
    """``images``, (samples, features), and their ``labels``, on which ``network`` is judged again and again.

    Images are of ``dtype``; they stay on the device if they fit into ``MAX_NBYTES``. What is bound
    once, a library's plans too, serves every test.
    """

    def __init__(
        self, stream: Stream, network: Network, images: NDArray[Any], labels: NDArray[Any], dtype: DTypeLike
    ) -> None:  # fmt: skip
        device, num, kind = stream.device, len(images), np.dtype(dtype)
        self._device = device
        self._parameters = device.empty(network.num_parameters, kind)
        self._stats = device.empty(num_stats(network), kind)
        self._correct = zeros(device, 1, np.int32)
        host = np.ascontiguousarray(images, kind)
        source = device.upload(host) if host.nbytes <= MAX_NBYTES else host
        rows = max(1, min(chunk_rows(network, kind.itemsize), num))
        learnt = learnt_of(network, self._parameters, self._stats)
        evaluation = Evaluation.of(stream, network, learnt, rows, kind)
        expected = device.upload(labels.astype(np.int32))
        bound = {size: evaluation.bind(size) for size in {min(rows, num), num % rows} if size}
        self._calls: list[Call] = []
        for start in range(0, num, rows):
            stop = min(start + rows, num)
            run, logits = bound[stop - start]
            load = self._load(stream, source[start:stop], evaluation.staged[: stop - start])
            count = _count(stream, logits, expected[start:stop], self._correct)
            self._calls.append(in_turn(load, run, count))

    def _load(self, stream: Stream, chunk: DeviceArray | NDArray[Any], staged: DeviceArray) -> Call:
        """Return the call that brings ``chunk`` to where an evaluation takes it from."""
        if isinstance(chunk, DeviceArray):
            return stream.bind_copy(chunk, staged)
        return partial(self._device.write, staged, chunk)

    def num_correct(self, parameters: NDArray[Any], stats: NDArray[Any]) -> int:
        """Return for how many images the likeliest class is the label.

        ``parameters`` are flat, the first node first, each one's weights before its biases; ``stats``
        are its running means before its variances.
        """
        self._device.write(self._parameters, parameters)
        self._device.write(self._stats, stats)
        self._device.write(self._correct, np.zeros(1, np.int32))
        for call in self._calls:
            call()
        return int(self._device.read(self._correct)[0])


def num_stats(network: Network) -> int:
    """Return how many running means and variances ``network`` has."""
    return sum(2 * node.shape[0] for node in network.nodes if isinstance(node.module, BatchNorm2d))


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
