"""Biases on a device: which op adds the bias of a layer, and which sums its gradient.

A kernel more costs a launch, and a pass over all that a layer gives. So where nothing comes between a
layer and its activation or the loss, these do both in their own pass.
"""

from exec.network.modules import Conv2d, Linear, ReLU, Sigmoid
from exec.plan.layout import Layout


def adds_late(layout: Layout, node: int) -> bool:
    """Say whether the activation in the place of the output of ``node``, or the loss, adds its bias.

    Where tp ranks share a layer, its output may have to be gathered or summed first.
    """
    network = layout.network
    if node not in layout.nodes or layout.tp > 1 or not layout.shard(node).num_biases:
        return False
    if not isinstance(network.nodes[node].module, Linear | Conv2d):
        return False
    if node == layout.nodes[-1]:
        return layout.is_last
    in_place = [
        each
        for each in network.consumers[node]
        if each in layout.nodes and layout.places.home[each] == node
    ]
    return bool(in_place) and isinstance(network.nodes[in_place[0]].module, ReLU | Sigmoid)


def sums_early(layout: Layout, node: int) -> bool:
    """Say whether the activation behind the dense layer ``node`` sums the gradient of its bias."""
    return (
        adds_late(layout, node)
        and isinstance(layout.network.nodes[node].module, Linear)
        and node != layout.nodes[-1]
    )
