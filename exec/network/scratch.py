"""Scratch: how many numbers a node's kernels need beside their operands."""

from exec.network.modules import Conv2d, Linear, Sigmoid
from exec.network.network import Network


def scratch_elements(network: Network, node: int, inputs: int, outputs: int, samples: int) -> int:
    """Return the elements of scratch of ``node`` of ``inputs`` channels to ``outputs``."""
    match network.nodes[node].module:
        case Linear():
            return max(inputs * samples, inputs * outputs)
        case Sigmoid():
            return outputs * network.pixels(node) * samples
        case Conv2d():
            return 0
        case _:
            return 0
