"""Softmax cross-entropy of a microbatch: its gradient in place of the logits, and its sum."""

from dataclasses import dataclass, field

import numpy as np

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream, zeros
from exec.gpu.launch import TILE, ceil_div


@dataclass(slots=True)
class Loss:
    """The loss ``-scale * sum log p[label]``; ``total`` grows by that of every batch.

    ``logits`` are (classes, n), ``bias`` (classes,) or None if they hold it. Sample j of them has
    the label ``labels[order[position[0] + start + j]]``.
    """

    stream: Stream
    logits: DeviceArray
    bias: DeviceArray | None
    labels: DeviceArray
    order: DeviceArray
    position: DeviceArray
    start: int
    scale: float
    forward_backward: Call = field(init=False)
    _total: DeviceArray = field(init=False)

    def __post_init__(self) -> None:
        device = self.stream.device
        classes, n = self.logits.shape
        blocks = ceil_div(n, TILE)
        self._total = zeros(device, 1, np.float64)
        sums, counter = device.empty(max(1, blocks), np.float64), zeros(device, 1, np.int32)
        self.forward_backward = self.stream.bind_kernel(
            "softmax_cross_entropy", self.logits.dtype, (blocks,), (TILE, _rows(classes)),
            self.logits, self.bias, self.labels, self.order, self.position, self.start, classes, n,
            float(self.scale), sums, self._total, counter,
        )  # fmt: skip

    @property
    def total(self) -> float:
        """The sum of the losses, once all that was enqueued is done."""
        return float(self.stream.device.read(self._total)[0])

    @total.setter
    def total(self, value: float) -> None:
        self.stream.device.write(self._total, np.array([value]))


def _rows(classes: int) -> int:
    """Return how many threads share a column: a power of two, with two classes or more for each."""
    return 1 << min(5, max(1, classes // 2).bit_length() - 1)
