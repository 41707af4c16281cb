"""Scratch: how many numbers a node's kernels need beside their operands."""

from exec.network.modules import AvgPool, BatchNorm2d, Conv2d, Linear, MaxPool, Sigmoid
from exec.network.network import Network, pooling_window
from exec.network.scratch import (
    average_pooling_scratch,
    convolution_scratch,
    max_pooling_scratch,
    normalisation_scratch,
)


def scratch_elements(network: Network, node: int, inputs: int, outputs: int, samples: int) -> int:
    """Return the elements of scratch of ``node``, of ``inputs`` channels to ``outputs``.

    They are enough for fewer samples too.
    """
    module = network.nodes[node].module
    _, height, width = network.shape(network.nodes[node].inputs[0])
    match module:
        case Linear():
            return max(inputs * samples, inputs * outputs)
        case Sigmoid():
            return outputs * network.pixels(node) * samples
        case Conv2d(_, kernel, stride, padding):
            return convolution_scratch(
                samples, inputs, height, width, outputs, kernel, stride, padding
            )
        case BatchNorm2d():
            return normalisation_scratch(samples, outputs, height, width)
        case MaxPool(_, stride, padding):
            window = pooling_window(network, node)
            return max_pooling_scratch(samples, outputs, height, width, window, stride, padding)
        case AvgPool(_, stride, padding):
            window = pooling_window(network, node)
            return average_pooling_scratch(samples, outputs, height, width, window, stride, padding)
        case _:
            return 0
