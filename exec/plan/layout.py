"""The layout: which nodes, channels and buffers a rank holds.

The executor allocates exactly what a layout lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from exec.errors import UsageError
from exec.network.gpu_scratch import gpu_scratch_elements
from exec.network.modules import Profiled
from exec.network.network import INPUT, Network
from exec.network.scratch import scratch_elements
from exec.plan.options import PlanOptions
from exec.plan.places import EXCHANGED, STAGE_INPUT, Places, places_of
from exec.plan.shards import NodeShard, Split, shards_of
from exec.plan.stages import check_stages, exchange_node, stage_nodes
from exec.program.mesh import Mesh
from exec.program.peers import split_size
from exec.workload import Workload


@dataclass(frozen=True)
class Layout:
    """What the rank at ``stage`` and ``tp_rank`` holds of ``network``; sizes are in elements.

    The parameters, and their gradients, are one flat range, the first node first, each node's
    weights (units x inputs, or filters x kernel height x kernel width x channels, or scales) before
    its biases. The running means and variances of normalisations are another, ``stat``.
    """

    network: Network
    stage: int
    num_stages: int
    tp_rank: int
    shards: tuple[NodeShard, ...]
    tp: int = 1
    exchange: int | None = None
    is_on_gpu: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this stage reads the batch."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage computes the loss."""
        return self.stage == self.num_stages - 1

    @property
    def nodes(self) -> range:
        """The nodes of this stage."""
        return range(self.shards[0].node, self.shards[-1].node + 1)

    def shard(self, node: int) -> NodeShard:
        """Return the share of ``node``."""
        return self.shards[node - self.shards[0].node]

    @cached_property
    def num_parameters(self) -> int:
        """All parameters of this rank."""
        return sum(shard.num_parameters for shard in self.shards)

    @cached_property
    def num_stats(self) -> int:
        """All running means and variances of this rank."""
        return sum(shard.num_stats for shard in self.shards)

    @cached_property
    def offsets(self) -> dict[int, int]:
        """Where the parameters of each node begin."""
        found, start = {}, 0
        for shard in self.shards:
            found[shard.node] = start
            start += shard.num_parameters
        return found

    @cached_property
    def stat_offsets(self) -> dict[int, int]:
        """Where the running means of each node begin; the variances follow."""
        found, start = {}, 0
        for shard in self.shards:
            found[shard.node] = start
            start += shard.num_stats
        return found

    @cached_property
    def input(self) -> int:
        """The value that this stage is given."""
        first = self.shards[0].node
        return INPUT if self.is_first else first - 1

    @property
    def has_rows(self) -> bool:
        """Whether the images are needed as they come, samples first: only dense layers take them."""
        return self.is_first and self.network.takes_rows

    @property
    def is_channels_last(self) -> bool:
        """Whether images have their channels innermost, and not their samples.

        Where tp ranks share channels each one's must be a contiguous block.
        """
        return self.is_on_gpu and self.tp == 1 and self.network.admits_channels_last

    @cached_property
    def places(self) -> Places:
        """In which buffer each value is, and its gradient."""
        sizes = {shard.node: self.network.width(shard.node) for shard in self.shards}
        return places_of(
            self.network, self.nodes, sizes, is_first=self.is_first, exchange=self.exchange
        )

    def is_whole(self, home: int) -> bool:
        """Say whether all channels of the value at ``home`` are here in the end."""
        return home in self._whole

    @cached_property
    def _whole(self) -> frozenset[int]:
        home = self.places.home
        return frozenset(home[each.node] for each in self.shards if each.gathers or each.split is not Split.COLUMN)  # fmt: skip

    @cached_property
    def _held(self) -> dict[int, int]:
        """How many numbers a sample has in each home: this rank's channels, or all of them."""
        found: dict[int, int] = {}
        for shard in self.shards:
            home = self.places.home[shard.node]
            channels = (
                self.network.shape(shard.node)[0] if self.is_whole(home) else shard.num_outputs
            )
            found[home] = channels * self.network.pixels(shard.node)
        return found

    @property
    def final(self) -> int:
        """The home of what this stage gives."""
        return self.places.home[self.shards[-1].node]

    def buffer(self, home: int) -> str:
        """Return the buffer of the value at ``home``."""
        return {STAGE_INPUT: "x", EXCHANGED: "e"}.get(home, f"a{home}")

    def gradient(self, home: int) -> str:
        """Return the buffer of the gradient of the value at ``home``, which must have one.

        The gradient of logits takes their place.
        """
        if home == STAGE_INPUT:
            return "gx"
        if home == EXCHANGED:
            return "ge"
        if home == self.final:
            return self.buffer(home) if self.is_last else "gy"
        return f"g{self.places.gradient[home]}"

    def has_slots(self, buffer: str) -> bool:
        """Say whether each slot has a ``buffer`` of its own; the slots share the others."""
        return not (buffer.startswith("g") and buffer[1:].isdigit()) and buffer != "work"

    def learns_before(self, node: int) -> bool:
        """Say whether anything before ``node`` has a gradient."""
        return node in self._learning

    @cached_property
    def _learning(self) -> frozenset[int]:
        home, learning = self.places.home, self.places.learning
        return frozenset(
            node
            for node in self.nodes
            if any(home.get(value, STAGE_INPUT) in learning for value in self.network.nodes[node].inputs)
        )  # fmt: skip

    def sums_gradient(self, home: int) -> bool:
        """Say whether the tp ranks each have a part of the gradient of ``home``: it is summed.

        What all of them would bring alike, only the first brings.
        """
        if self.exchange is not None and home < self.exchange:
            return False
        return home in self.places.learning and any(
            self.shard(node).split is Split.COLUMN and self.shard(node).is_weighted
            for node in self.places.readers.get(home, ())
        )

    def rows_at(self, place: int, rows: int) -> int:
        """Return how many of a microbatch's ``rows`` samples this rank has at a node or home."""
        if self.exchange is None or place >= self.exchange or place == EXCHANGED:
            return rows
        return split_size(rows, self.tp, self.tp_rank)

    @property
    def exchanged_width(self) -> int:
        """How many numbers a sample has where the batch is exchanged."""
        assert self.exchange is not None
        return self.network.width(self.network.nodes[self.exchange].inputs[0])

    @property
    def num_before_exchange(self) -> int:
        """How many parameters all ranks have alike, because they come before the exchange."""
        return 0 if self.exchange is None else self.offsets[self.exchange]

    def slot_elements(self, rows: int) -> dict[str, int]:
        """Return the buffers of one slot, for microbatches of up to ``rows`` samples.

        ``x`` is what the stage is given, ``a<n>`` what node ``n`` puts out, ``s<n>`` the sums and
        statistics of a normalisation, ``t`` the targets; ``gx`` and ``gy`` are the gradients of
        what the stage is given and of what it gives. ``e`` is the exchanged batch, samples first,
        and ``ge`` its gradient.
        """
        network = self.network
        sizes = {"x": network.width(self.input) * self.rows_at(STAGE_INPUT, rows)}
        sizes |= {
            f"a{home}": width * self.rows_at(home, rows)
            for home, width in self._held.items()
            if home >= 0
        }
        if self.exchange is not None:
            sizes |= dict.fromkeys(("e", "ge"), self.exchanged_width * rows)
        sizes |= {
            f"s{shard.node}": 4 * shard.num_outputs for shard in self.shards if shard.num_stats
        }
        if self.is_last and not self.is_on_gpu:  # there the loss looks up the labels themselves
            sizes["t"] = network.num_classes * rows
        if not self.is_last:
            sizes["gy"] = network.width(self.shards[-1].node) * rows
        if not self.is_first:
            sizes["gx"] = network.width(self.input) * rows
        return sizes

    def shared_elements(self, rows: int) -> dict[str, int]:
        """Return the buffers that all slots share: gradients inside the stage, and scratch."""
        sizes = {f"g{number}": 0 for number in range(self.places.num_gradients)}
        for home, number in self.places.gradient.items():
            sizes[f"g{number}"] = max(
                sizes[f"g{number}"], self._held[home] * self.rows_at(home, rows)
            )
        sizes["work"] = max(
            self._scratch(each, self.rows_at(each.node, rows)) for each in self.shards
        )
        is_turned = self.is_first and not self.has_rows and not self.is_on_gpu
        if is_turned:  # images come samples first
            sizes["work"] = max(
                sizes["work"], self.network.num_features * self.rows_at(STAGE_INPUT, rows)
            )
        return sizes

    def _scratch(self, shard: NodeShard, rows: int) -> int:
        """Return the elements of scratch that a node needs."""
        size = shard.node, shard.num_inputs, shard.num_outputs, rows
        if self.is_on_gpu:
            return gpu_scratch_elements(self.network, *size, is_channels_last=self.is_channels_last)
        return scratch_elements(self.network, *size)


def held_elements(layout: Layout, workload: Workload, slots: int, rows: int) -> int:
    """Return all that a rank holds, but for the scratch of expanded collectives."""
    copies = 3 if workload.has_momentum else 2
    activations = slots * sum(layout.slot_elements(rows).values())
    shared = sum(layout.shared_elements(rows).values())
    return copies * layout.num_parameters + layout.num_stats + activations + shared


def layout_of(
    network: Network, mesh: Mesh, stage: int, tp_rank: int, options: PlanOptions = PlanOptions()
) -> Layout:
    """Return what the ranks at ``stage`` and ``tp_rank`` of ``mesh`` hold of ``network``."""
    is_exchanged = options.is_exchanged and mesh.tp > 1
    return _layout(
        network, mesh.pp, mesh.tp, stage, tp_rank, options.stages, is_exchanged, options.device.has_streams
    )  # fmt: skip


@lru_cache(maxsize=65536)
def _layout(
    network: Network, pp: int, tp: int, stage: int, tp_rank: int, cuts: tuple[int, ...], is_exchanged: bool, is_on_gpu: bool
) -> Layout:  # fmt: skip
    nodes = stage_nodes(network, pp, cuts)[stage]
    exchange = exchange_node(network) if is_exchanged else None
    shards = shards_of(network, nodes, tp, tp_rank, exchange or 0)
    return Layout(network, stage, pp, tp_rank, tuple(shards), tp, exchange, is_on_gpu)


def tensor_classes(layout: Layout, tp: int, rows: Sequence[int] = ()) -> list[range]:
    """Return the ranges of tp ranks whose layouts differ from ``layout`` in position only, not in size.

    ``layout`` is that of one of them; ``rows`` are the samples of the microbatches.
    """
    borders = {0, tp}
    if layout.exchange is not None:
        borders |= {each % tp for each in rows}
    for shard in layout.shards:
        if shard.split is Split.ROW:
            borders.add(1)
        elif shard.split is Split.COLUMN and shard.is_weighted:
            borders.add(layout.network.shape(shard.node)[0] % tp)
        module = layout.network.nodes[shard.node].module
        if isinstance(module, Profiled) and shard.split is not Split.FULL:
            borders.add(module.num_parameters % tp)
    return [range(low, high) for low, high in pairwise(sorted(borders))]


def check_mesh(workload: Workload, mesh: Mesh, options: PlanOptions) -> None:
    """Raise :class:`UsageError` unless the network and batch admit ``mesh``."""
    network = workload.network
    check_stages(network, mesh.pp, options.stages)
    if options.is_exchanged:
        exchange_node(network)
    if mesh.tp > 1:
        for stage in range(mesh.pp):
            for shard in layout_of(network, mesh, stage, 0, options).shards:
                width = network.shape(shard.node)[0]
                if shard.split is Split.COLUMN and shard.is_weighted and width < mesh.tp:
                    raise UsageError(
                        f"tp must be at most the {width} channels or units that layer "
                        f"{network.nodes[shard.node].name} of {network.name} splits, got {mesh.tp}"
                    )
    least = mesh.dp * options.num_microbatches
    if workload.global_batch < least:
        raise UsageError(
            f"batch must be at least dp x microbatches = {mesh.dp} x {options.num_microbatches} = "
            f"{least}, got {workload.global_batch}; use a larger batch or fewer ranks"
        )
