"""Pipeline stages: where a network is cut, so that the costliest stage costs as little as it can."""

from collections.abc import Sequence
from functools import lru_cache

from exec.errors import UsageError, unknown_name
from exec.network.modules import Conv2d
from exec.network.network import Network
from exec.workload import Workload


def balanced(
    network: Network, num_stages: int, costs: Sequence[float], paces: Sequence[float] = ()
) -> tuple[int, ...]:
    """Return the first node of every stage but the first.

    ``costs`` are those of the nodes; a stage takes so many times as long as ``paces`` says, if it
    says anything. Of all cuts between :attr:`Network.stage_starts` these make
    the costliest stage cheapest, by dynamic programming over the pieces between two starts.
    """
    starts = (0, *network.stage_starts[1:], len(network.nodes))
    num_pieces = len(starts) - 1
    sums = [0.0]
    for piece in range(num_pieces):
        sums.append(sums[-1] + sum(costs[starts[piece] : starts[piece + 1]]))
    best: dict[int, tuple[float, tuple[int, ...]]] = {
        0: (0.0, ())
    }  # by the pieces taken: the costliest stage, and where stages begin
    for stage in range(1, num_stages + 1):
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        pace = paces[stage - 1] if paces else 1.0
        for end in range(stage, num_pieces - (num_stages - stage) + 1):
            options = (
                (max(cost, (sums[end] - sums[start]) * pace), (*cuts, starts[start]))
                for start, (cost, cuts) in best.items()
                if start < end
            )
            following[end] = min(options, key=lambda option: option[0])
        best = following
    return best[num_pieces][1][1:]


@lru_cache(maxsize=4096)
def stage_nodes(network: Network, num_stages: int, cuts: tuple[int, ...] = ()) -> tuple[range, ...]:
    """Return the nodes of each stage: cut at ``cuts``, or without any balanced by flops.

    >>> from exec.network.network import mlp
    >>> stage_nodes(mlp(128, 512, 64, 26), 2)
    (range(0, 2), range(2, 5))
    """
    check_stages(network, num_stages, cuts)
    if not cuts:
        workload = Workload(network, 1)
        cuts = balanced(network, num_stages, [workload.node_flops(i) for i in range(len(network.nodes))])  # fmt: skip
    borders = (0, *cuts, len(network.nodes))
    return tuple(map(range, borders, borders[1:]))


def check_stages(network: Network, num_stages: int, cuts: tuple[int, ...]) -> None:
    """Raise :class:`UsageError` unless ``network`` can be cut so, or into so many stages."""
    starts = network.stage_starts
    if num_stages > len(starts):
        raise UsageError(
            f"pp must be at most the {len(starts)} layers of {network.name} at which a stage can "
            f"begin, got {num_stages} stages; use fewer stages or a deeper net"
        )
    if not cuts:
        return
    if num_stages == 1:
        raise UsageError(
            "stages need a pipeline; use --strategy pipeline or --pp, or leave them out"
        )
    if len(cuts) != num_stages - 1:
        raise UsageError(
            f"stages must name {num_stages - 1} of the layers, the first of each stage but the "
            f"first with pp {num_stages}, got {len(cuts)}"
        )
    if list(cuts) != sorted(set(cuts)) or not set(cuts) <= set(starts[1:]):
        known = ", ".join(network.nodes[start].name for start in starts[1:])
        raise UsageError(
            f"stages must be, in order, some of the layers at which one of {network.name} can begin "
            f"({known}), got {', '.join(network.nodes[cut].name for cut in cuts)}"
        )


def exchange_node(network: Network) -> int:
    """Return the first dense layer behind the last convolution, where the batch is exchanged.

    It alone takes what is exchanged.

    Source: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
    arXiv:1404.5997 (2014).

    Raises:
        UsageError: there is no such layer, or the network has no convolutions.
    """
    convolutions = [i for i, node in enumerate(network.nodes) if isinstance(node.module, Conv2d)]
    last = max(convolutions, default=len(network.nodes))
    found = next(
        (start for start in network.stage_starts if start > last and network.consumers[start - 1] == (start,)),
        None,
    )  # fmt: skip
    if found is None:
        raise UsageError(
            f"strategy krizhevsky needs convolutions and dense layers behind them, got net "
            f"{network.name}; choose data, tensor or hybrid"
        )
    return found


def parse_stages(text: str | None, network: Network) -> tuple[int, ...]:
    """Return the first nodes of stages that ``text`` names, in order; none for None.

    Raises:
        UsageError: a name is no layer's.
    """
    if text is None:
        return ()
    names = [node.name for node in network.nodes]
    cuts = []
    for name in text.split(","):
        if name not in names:
            starts = [names[start] for start in network.stage_starts[1:]]
            raise UsageError(unknown_name("stages", name, starts))
        cuts.append(names.index(name))
    return tuple(cuts)
