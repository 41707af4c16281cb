"""Which weights feed a ReLU: they are drawn otherwise than those that feed a sigmoid."""

from exec.network.modules import Add, AvgPool, BatchNorm2d, Flatten, MaxPool, ReLU
from exec.network.network import Network


def feeds_relu(network: Network, node: int) -> bool:
    """Say whether the output of ``node`` next meets a ReLU, on any of its ways.

    Normalisations, poolings, sums and flattens are passed by; other nodes end the way.
    """
    ahead, seen = list(network.consumers[node]), set[int]()
    while ahead:
        index = ahead.pop()
        module = network.nodes[index].module
        if isinstance(module, ReLU):
            return True
        if isinstance(module, BatchNorm2d | MaxPool | AvgPool | Add | Flatten) and index not in seen:  # fmt: skip
            seen.add(index)
            ahead += network.consumers[index]
    return False
