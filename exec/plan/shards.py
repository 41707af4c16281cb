"""Shards: what share of each node a rank of a tp group computes.

A value is *whole* on every rank, or each rank has its own channels of it. A node with weights that
takes a whole value is split by columns: each rank computes some of the channels. All that
works on single channels goes on so, up to the next node with weights, which is split by rows: it uses
the rank's own channels, and the partial sums are all-reduced, after M. Shoeybi et al.,
"Megatron-LM", arXiv:1909.08053 (2019), section 3. Where no such node follows, or several nodes
take the value, the channels are gathered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from exec.network.modules import Add, BatchNorm2d, Conv2d, Flatten, Linear, Profiled
from exec.network.network import Network
from exec.program.peers import split_size, split_start


class Split(StrEnum):
    """How a node is shared by the ranks of a tp group."""

    FULL = "full"
    COLUMN = "column"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class NodeShard:
    """One rank's share of a node: output channels ``out_start:out_stop`` of ``in_start:in_stop``.

    Of a row-split node only the first rank holds the bias, so that the sum holds it once. If it
    ``gathers``, all ranks have its whole output in the end. ``num_weights`` and ``num_biases`` are
    those that the rank holds (of a normalisation scales and shifts). A sample has ``grain`` numbers
    in each channel of the output that is split, or that was before it was flattened.
    """

    node: int
    split: Split
    in_start: int
    in_stop: int
    out_start: int
    out_stop: int
    gathers: bool
    num_weights: int
    num_biases: int
    num_stats: int
    grain: int

    @property
    def num_inputs(self) -> int:
        """The input channels this rank uses."""
        return self.in_stop - self.in_start

    @property
    def num_outputs(self) -> int:
        """The output channels this rank computes, in full or in part."""
        return self.out_stop - self.out_start

    @property
    def is_weighted(self) -> bool:
        """Whether it is a dense layer or a convolution."""
        return self.num_weights > 0 and self.num_stats == 0

    @property
    def num_parameters(self) -> int:
        """The parameters this rank holds."""
        return self.num_weights + self.num_biases


def shards_of(
    network: Network, nodes: range, tp: int, tp_rank: int, first_split: int = 0
) -> Iterator[NodeShard]:
    """Yield the share of each of ``nodes``, a stage, of the rank at ``tp_rank`` of ``tp``.

    Nodes before ``first_split`` are whole on every rank.
    """
    split: dict[int, tuple[int, int, int]] = {}  # values of which ranks have channels: which, grain
    for node in nodes:
        each = network.nodes[node]
        value, module = each.inputs[0], each.module
        inputs, outputs = network.shape(value)[0], each.shape[0]
        in_range, out_range, kind = (0, inputs), (0, outputs), Split.FULL
        grain = network.pixels(node)
        if isinstance(module, Linear | Conv2d | Profiled):
            if value in split:
                in_range, kind = split[value][:2], Split.ROW
            elif tp > 1 and node >= first_split:
                kind = Split.COLUMN
                start = split_start(outputs, tp, tp_rank)
                out_range = start, start + split_size(outputs, tp, tp_rank)
        elif value in split:
            start, stop, before = split[value]
            in_range, kind = (start, stop), Split.COLUMN
            if isinstance(module, Flatten):
                pixels = network.pixels(value)
                start, stop, grain = start * pixels, stop * pixels, before
            out_range = start, stop
        gathers = kind is Split.COLUMN and not _stays_split(network, node, nodes)
        if kind is Split.COLUMN and not gathers:
            split[node] = (*out_range, grain)
        window = module.kernel[0] * module.kernel[1] if isinstance(module, Conv2d) else 1
        width, height = in_range[1] - in_range[0], out_range[1] - out_range[0]
        weights = biases = stats = 0
        if isinstance(module, Linear | Conv2d):
            weights = width * window * height
            biases = height * (module.has_bias and (kind is not Split.ROW or tp_rank == 0))
        elif isinstance(module, Profiled):
            is_split = kind is not Split.FULL
            weights = (
                split_size(module.num_parameters, tp, tp_rank)
                if is_split
                else module.num_parameters
            )
        elif isinstance(module, BatchNorm2d):
            weights = biases = height
            stats = 2 * height
        yield NodeShard(node, kind, *in_range, *out_range, gathers, weights, biases, stats, grain)


def _stays_split(network: Network, node: int, stage: range) -> bool:
    """Say whether what takes the output of ``node`` can work on a rank's own channels of it."""
    consumers = network.consumers[node]
    return (
        len(consumers) == 1
        and consumers[0] in stage
        and not isinstance(network.nodes[consumers[0]].module, Add)
    )
