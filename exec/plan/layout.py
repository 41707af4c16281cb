"""The layout: which layers, units and buffers a rank holds.

Stages are contiguous layers, split so that the largest share of flops is as small as it can be.
Inside a stage, layers alternate between a column split (each rank computes some of the units)
and a row split (each rank uses some of the inputs, and the partial sums are all-reduced), after
M. Shoeybi et al., "Megatron-LM", arXiv:1909.08053 (2019), section 3. A column layer that no row
layer follows gathers its units. The executor allocates exactly what a layout lists.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

from exec.errors import UsageError
from exec.program.mesh import Mesh
from exec.program.peers import split_size, split_start
from exec.workload import Workload


class Split(StrEnum):
    """How a layer is shared by the ranks of a tp group."""

    FULL = "full"
    COLUMN = "column"
    COLUMN_GATHER = "column_gather"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class LayerShard:
    """One rank's share of a layer: units ``out_start:out_stop``, inputs ``in_start:in_stop``.

    Of a row-split layer only the first rank holds the bias, so that the sum holds it once.
    """

    layer: int
    split: Split
    in_start: int
    in_stop: int
    out_start: int
    out_stop: int
    has_bias: bool

    @property
    def num_inputs(self) -> int:
        """The inputs this rank uses."""
        return self.in_stop - self.in_start

    @property
    def num_units(self) -> int:
        """The units this rank computes, in full or in part."""
        return self.out_stop - self.out_start

    @property
    def num_parameters(self) -> int:
        """The weights and biases this rank holds."""
        return self.num_units * (self.num_inputs + self.has_bias)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rank at ``stage`` and ``tp_rank`` holds; sizes are in elements.

    The parameters, and their gradients, are one flat range, the first layer first, each layer's
    weights (units x inputs, row-major) before its biases.
    """

    stage: int
    num_stages: int
    tp_rank: int
    shards: tuple[LayerShard, ...]

    @property
    def num_parameters(self) -> int:
        """All parameters of this rank."""
        return sum(shard.num_parameters for shard in self.shards)

    @property
    def is_first(self) -> bool:
        """Whether this stage reads the batch."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage computes the loss."""
        return self.stage == self.num_stages - 1

    def offset(self, layer: int) -> int:
        """Return where the parameters of ``layer`` begin."""
        return sum(shard.num_parameters for shard in self.shards if shard.layer < layer)

    def slot_elements(self, workload: Workload, rows: int) -> dict[str, int]:
        """Return the buffers of one slot, for microbatches of up to ``rows`` samples.

        ``x`` is the stage's input, ``a<l>`` what layer ``l`` puts out, ``g<l>`` the gradient of
        that; the gradient of the last layer takes the place of its output.
        """
        first, last = self.shards[0], self.shards[-1]
        sizes = {"x": workload.widths[first.layer] * rows}
        sizes |= {f"a{shard.layer}": _held_units(workload, shard) * rows for shard in self.shards}
        if self.is_last:
            sizes["t"] = workload.widths[-1] * rows
        else:
            sizes[f"g{last.layer}"] = workload.widths[last.layer + 1] * rows
        if not self.is_first:
            sizes[f"g{first.layer - 1}"] = workload.widths[first.layer] * rows
        return sizes

    def shared_elements(self, workload: Workload, rows: int) -> dict[str, int]:
        """Return the buffers that all slots share: the gradients inside the stage."""
        return {
            f"g{shard.layer}": _held_units(workload, shard) * rows for shard in self.shards[:-1]
        }


def held_elements(layout: Layout, workload: Workload, slots: int, rows: int) -> int:
    """Return all that a rank holds, but for the scratch of expanded collectives."""
    copies = 3 if workload.has_momentum else 2
    activations = slots * sum(layout.slot_elements(workload, rows).values())
    shared = sum(layout.shared_elements(workload, rows).values())
    return copies * layout.num_parameters + activations + shared


def _held_units(workload: Workload, shard: LayerShard) -> int:
    """Return how many rows the output buffer of ``shard`` has: its own units, or all of them."""
    return shard.num_units if shard.split is Split.COLUMN else workload.widths[shard.layer + 1]


@lru_cache(maxsize=4096)
def stage_layers(widths: tuple[int, ...], num_stages: int) -> tuple[range, ...]:
    """Return the layers of each stage, such that the costliest stage costs least.

    >>> stage_layers((128, 512, 64, 26), 2)
    (range(0, 1), range(1, 3))
    """
    workload = Workload(widths, 1)
    flops = [workload.layer_flops(layer) for layer in range(workload.num_layers)]
    best: dict[tuple[int, int], tuple[int, tuple[range, ...]]] = {(0, 0): (0, ())}
    for stages in range(1, num_stages + 1):
        for end in range(stages, len(flops) + 1):
            options = (
                (max(best[stages - 1, start][0], sum(flops[start:end])),
                 (*best[stages - 1, start][1], range(start, end)))
                for start in range(stages - 1, end)
                if (stages - 1, start) in best
            )  # fmt: skip
            best[stages, end] = min(options, key=lambda option: option[0])
    return best[num_stages, len(flops)][1]


@lru_cache(maxsize=65536)
def layout_of(widths: tuple[int, ...], mesh: Mesh, stage: int, tp_rank: int) -> Layout:
    """Return what the ranks at ``stage`` and ``tp_rank`` of ``mesh`` hold of the network."""
    layers = stage_layers(widths, mesh.pp)[stage]
    shards = []
    for position, layer in enumerate(layers):
        k, m, tp = widths[layer], widths[layer + 1], mesh.tp
        inputs, units, has_bias = (0, k), (0, m), True
        if tp == 1:
            split = Split.FULL
        elif position % 2 == 1:
            split, inputs, has_bias = Split.ROW, _share(k, tp, tp_rank), tp_rank == 0
        else:
            split = Split.COLUMN if layer + 1 in layers else Split.COLUMN_GATHER
            units = _share(m, tp, tp_rank)
        shards.append(LayerShard(layer, split, *inputs, *units, has_bias))
    return Layout(stage, mesh.pp, tp_rank, tuple(shards))


def tensor_classes(widths: tuple[int, ...], mesh: Mesh, stage: int) -> list[range]:
    """Return the ranges of tp ranks whose layouts differ in position only, not in size."""
    borders = {0, mesh.tp}
    for shard in layout_of(widths, mesh, stage, 0).shards:
        if shard.split is Split.ROW:
            borders |= {1, widths[shard.layer] % mesh.tp}
        elif shard.split is not Split.FULL:
            borders.add(widths[shard.layer + 1] % mesh.tp)
    ordered = sorted(borders)
    return [range(low, high) for low, high in pairwise(ordered)]


def _share(total: int, parts: int, index: int) -> tuple[int, int]:
    start = split_start(total, parts, index)
    return start, start + split_size(total, parts, index)


def check_mesh(workload: Workload, mesh: Mesh, num_microbatches: int) -> None:
    """Raise :class:`UsageError` unless the network and batch admit ``mesh``."""
    if mesh.pp > workload.num_layers:
        raise UsageError(
            f"pp must be at most the {workload.num_layers} layers of {workload.net}, got {mesh.pp} "
            f"stages; use fewer stages or a deeper net"
        )
    if mesh.tp > 1:
        for stage in range(mesh.pp):
            for shard in layout_of(workload.widths, mesh, stage, 0).shards:
                width = workload.widths[shard.layer + (shard.split is not Split.ROW)]
                if width < mesh.tp:
                    raise UsageError(
                        f"tp must be at most the {width} units that layer {shard.layer} of "
                        f"{workload.net} splits, got {mesh.tp}"
                    )
    least = mesh.dp * num_microbatches
    if workload.global_batch < least:
        raise UsageError(
            f"batch must be at least dp x microbatches = {mesh.dp} x {num_microbatches} = {least}, "
            f"got {workload.global_batch}; use a larger batch or fewer ranks"
        )
