"""Places: in which buffer each value of a stage, and its gradient, lies.

What can be done in place is: an activation, if nobody else needs what it overwrites, and a sum,
which takes the place of its first input. A flatten only looks at its input in another way. The
gradients of a stage share a few buffers, each used again as soon as its gradient has been.
"""

from dataclasses import dataclass

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    Profiled,
    ReLU,
    Sigmoid,
)
from exec.network.network import Network

STAGE_INPUT, EXCHANGED = -2, -3
"""The homes of what a stage is given, and of the batch that ranks have exchanged."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the values of a stage are.

    ``home`` maps each node to the node whose buffer its output is in, or to ``STAGE_INPUT``.
    ``gradient`` maps homes to the number of the shared buffer for their gradient; what the stage
    is given and what it gives have gradients of their own. ``learning`` are the homes that have
    a gradient. ``readers`` are, for every home, the nodes that take it and work elsewhere.
    """

    home: dict[int, int]
    gradient: dict[int, int]
    num_gradients: int
    learning: frozenset[int]
    readers: dict[int, tuple[int, ...]]
    completed: dict[int, tuple[int, ...]]

    def adds(self, node: int, home: int) -> bool:
        """Say whether ``node`` adds to the gradient of ``home``: the last reader writes it first."""
        return node != self.readers[home][-1]


def places_of(
    network: Network, stage: range, sizes: dict[int, int], *, is_first: bool, exchange: int | None = None
) -> Places:  # fmt: skip
    """Return the places of the values of ``stage``; ``sizes`` are those of nodes' outputs.

    The node ``exchange`` takes what ranks have exchanged of its input, which it itself reads too.
    """
    home: dict[int, int] = {}
    exchanged: dict[int, int] = {} if exchange is None else {exchange: EXCHANGED}

    def home_of(value: int) -> int:
        return home.get(value, STAGE_INPUT)

    learning = set() if is_first else {STAGE_INPUT}
    learning |= set(exchanged.values())
    for node in stage:
        each = network.nodes[node]
        value = each.inputs[0]
        in_place = isinstance(each.module, Flatten) or _can_overwrite(network, node, stage)
        home[node] = home_of(value) if in_place else node
        before = any(home_of(each) in learning for each in each.inputs)
        if before or isinstance(each.module, Linear | Conv2d | BatchNorm2d | Profiled):
            learning.add(home[node])
    readers: dict[int, list[int]] = {}
    for node in stage:
        for place, value in enumerate(network.nodes[node].inputs):
            if place > 0 or home[node] != home_of(value):
                readers.setdefault(home_of(value), []).append(node)
    for node, taken in exchanged.items():
        readers[taken] = [node]
    gradient, num_gradients = _shared_gradients(network, stage, sizes, home, learning)
    completed: dict[int, tuple[int, ...]] = {}
    for at, found in readers.items():
        if at in learning:
            completed[found[0]] = (*completed.get(found[0], ()), at)
    return Places(
        home, gradient, num_gradients, frozenset(learning), {at: tuple(found) for at, found in readers.items()}, completed
    )  # fmt: skip


def _shared_gradients(
    network: Network, stage: range, sizes: dict[int, int], home: dict[int, int], learning: set[int]
) -> tuple[dict[int, int], int]:
    """Return the shared buffer for the gradient of each home, and how many buffers there are.

    Backwards through the stage each gradient takes the smallest free buffer that it fits into, and
    leaves it free behind the node that made its value.
    """
    gradient: dict[int, int] = {}
    free: list[int] = []
    held: list[int] = []  # the size of each shared buffer
    for node in reversed(stage):
        for value in network.nodes[node].inputs:
            at = home.get(value, STAGE_INPUT)
            if (
                at not in learning
                or at in (STAGE_INPUT, EXCHANGED, home[stage[-1]])
                or at in gradient
            ):
                continue
            size = sizes[at]
            fitting = [each for each in free if held[each] >= size]
            if fitting:
                chosen = min(fitting, key=held.__getitem__)
            elif free:
                chosen = max(free, key=held.__getitem__)
            else:
                chosen = len(held)
                held.append(0)
                free.append(chosen)
            free.remove(chosen)
            held[chosen] = max(held[chosen], size)
            gradient[at] = chosen
        if node in gradient:
            free.append(gradient[node])
    return gradient, len(held)


def _can_overwrite(network: Network, node: int, stage: range) -> bool:
    """Say whether ``node`` may write over its first input."""
    each = network.nodes[node]
    value = each.inputs[0]
    if not isinstance(each.module, ReLU | Sigmoid | Add) or value not in stage:
        return False
    while isinstance(network.nodes[value].module, Flatten):
        if len(network.consumers[value]) > 1 or network.nodes[value].inputs[0] not in stage:
            return False
        value = network.nodes[value].inputs[0]
    # These do not look at their output again; others must find it as it was.
    is_free = isinstance(
        network.nodes[value].module, Linear | Conv2d | BatchNorm2d | Add | AvgPool | Profiled
    )
    return is_free and len(network.consumers[value]) == 1
