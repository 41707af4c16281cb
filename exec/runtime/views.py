"""Views: the arrays that a kernel works on, found by where a layout puts values and gradients."""

from dataclasses import dataclass, field

from exec.network.modules import Linear
from exec.network.network import Image
from exec.plan.layout import Layout
from exec.plan.places import EXCHANGED, STAGE_INPUT
from exec.plan.shards import NodeShard, Split
from exec.program.ops import Compute
from exec.runtime.buffers import Buffers, Numbers


@dataclass(slots=True)
class Views:
    """The arrays that one op works on: (channels, height, width, samples), or (units, samples)."""

    buffers: Buffers
    op: Compute
    layout: Layout = field(init=False)
    shard: NodeShard = field(init=False)

    def __post_init__(self) -> None:
        self.layout = self.buffers.layout
        self.shard = self.layout.shard(self.op.layer)

    @property
    def num_inputs(self) -> int:
        """How many values the node takes."""
        return len(self._values)

    @property
    def _values(self) -> tuple[int, ...]:
        return self.layout.network.nodes[self.op.layer].inputs

    @property
    def is_in_place(self) -> bool:
        """Whether the output takes the place of the first input."""
        return self._home(self._values[0]) == self._home(self.op.layer)

    @property
    def has_rows(self) -> bool:
        """Whether the input has samples first: images as they come, or an exchanged batch."""
        home = self._home(self._values[0])
        return home == EXCHANGED or (home == STAGE_INPUT and self.layout.has_rows)

    def _home(self, value: int) -> int:
        if self.op.layer == self.layout.exchange and value == self._values[0]:
            return EXCHANGED
        return self.layout.places.home.get(value, STAGE_INPUT)

    def output(self) -> Numbers:
        """Return where this rank's share of the output is."""
        return self._own(self.op.layer, self.layout.buffer(self._home(self.op.layer)))

    def grad_output(self) -> Numbers:
        """Return the gradient of this rank's share of the output."""
        return self._own(self.op.layer, self.layout.gradient(self._home(self.op.layer)))

    def input(self, place: int) -> Numbers:
        """Return what this rank takes of an input."""
        value = self._values[place]
        name = self.layout.buffer(self._home(value))
        if self.has_rows:
            return self.buffers.matrix(self.slot(name), self.op.shape.n, self.op.shape.k).T
        return self._taken(value, name)

    def grad_input(self, place: int) -> tuple[Numbers, bool] | None:
        """Return where the gradient of an input goes, and whether it is added to what is there.

        None if nobody needs it, or if it is where the gradient of the output is.
        """
        return None if self._is_dropped(place) else self._destination(place)

    def dropped(self) -> list[tuple[Numbers, bool]]:
        """Return the gradients of inputs, as above, that another rank of the tp group brings."""
        places = filter(self._is_dropped, range(self.num_inputs))
        return [found for found in map(self._destination, places) if found is not None]

    def _is_dropped(self, place: int) -> bool:
        """Say whether all ranks have this gradient alike, and the first brings it to their sum."""
        is_alike = not (self.shard.is_weighted and self.shard.split is Split.COLUMN)
        home = self._home(self._values[place])
        return self.layout.tp_rank > 0 and is_alike and self.layout.sums_gradient(home)

    def _destination(self, place: int) -> tuple[Numbers, bool] | None:
        layout, value = self.layout, self._values[place]
        home = self._home(value)
        if home not in layout.places.learning or (place == 0 and self.is_in_place):
            return None
        others = [self._home(each) for each in self._values[:place]]
        adds = layout.places.adds(self.op.layer, home) or home in others
        if home == EXCHANGED:
            return self.buffers.matrix(self.slot("ge"), self.op.shape.n, self.op.shape.k), False
        return self._taken(value, layout.gradient(home)), adds

    def _taken(self, value: int, name: str) -> Numbers:
        """Return what the node takes of ``value``: its share, or the whole."""
        if self._home(value) != STAGE_INPUT and value in self.layout.nodes:
            maker = self.layout.shard(value)
            if maker.split is Split.COLUMN and not maker.gathers:
                return self._own(value, name)
        return self._view(name, 0, self.layout.network.shape(value))

    def _own(self, node: int, name: str) -> Numbers:
        """Return this rank's channels of the output of ``node``, in buffer ``name``."""
        maker, (_, *image) = self.layout.shard(node), self.layout.network.shape(node)
        first = maker.out_start if self.layout.is_whole(self._home(node)) else 0
        pixels = self.layout.network.pixels(node)
        return self._view(name, first * pixels, (maker.num_outputs, image[0], image[1]))

    def _view(self, name: str, start: int, shape: Image) -> Numbers:
        n = self.op.shape.n
        size = shape[0] * shape[1] * shape[2]
        flat = self.buffers.arrays[self.slot(name)][start * n : (start + size) * n]
        is_flat = isinstance(self.layout.network.nodes[self.op.layer].module, Linear)
        return flat.reshape((shape[0], n) if is_flat else (*shape, n))

    def slot(self, name: str) -> str:
        """Return the buffer ``name`` of this op's slot."""
        return slotted(self.layout, name, self.op.microbatch % self.buffers.role.slots)


def slotted(layout: Layout, name: str, slot: int) -> str:
    """Return the name of buffer ``name`` of ``slot``: its own, or the one that all share."""
    return f"{name}.{slot}" if layout.has_slots(name) else name
