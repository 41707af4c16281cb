"""The arrays of one rank, allocated once, exactly as its layout lists them."""

from dataclasses import dataclass, field

from exec.nn.backend import DTYPES, Array, xp
from exec.nn.initial import initial_weights
from exec.plan.layout import LayerShard, Layout
from exec.program.peers import Part
from exec.workload import Workload


@dataclass(slots=True)
class Buffers:
    """Parameters, gradients and velocities (flat), and the activations of every slot.

    ``rows`` is the most samples that a microbatch of this rank will have; smaller microbatches
    use the front of a buffer.
    """

    workload: Workload
    layout: Layout
    slots: int
    rows: int
    scratch_elements: int
    dtype: str
    parameters: Array = field(init=False)
    gradient: Array = field(init=False)
    velocity: Array | None = field(init=False)
    arrays: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        def zeros(size: int) -> Array:
            return xp.zeros(size, DTYPES[self.dtype])

        layout, workload = self.layout, self.workload
        self.parameters = zeros(layout.num_parameters)
        self.gradient = zeros(layout.num_parameters)
        self.velocity = zeros(layout.num_parameters) if workload.has_momentum else None
        shared = layout.shared_elements(workload, self.rows)
        self.arrays = {name: zeros(size) for name, size in shared.items()}
        for name, size in layout.slot_elements(workload, self.rows).items():
            self.arrays |= {f"{name}.{slot}": zeros(size) for slot in range(self.slots)}
        self.arrays["scratch"] = zeros(self.scratch_elements)
        self.arrays["grad"] = self.gradient

    @property
    def nbytes(self) -> int:
        """All that is allocated here."""
        held = [self.parameters, *self.arrays.values()]
        return sum(array.nbytes for array in held) + (
            0 if self.velocity is None else self.velocity.nbytes
        )

    def matrix(self, name: str, height: int, width: int) -> Array:
        """Return the front of buffer ``name`` as a ``height`` x ``width`` matrix."""
        return self.arrays[name][: height * width].reshape(height, width)

    def part(self, part: Part) -> Array:
        """Return the elements of a concrete ``part``."""
        return self.arrays[part.buffer][part.start : part.stop]

    def weight(self, flat: Array, shard: LayerShard) -> Array:
        """Return the (units, inputs) weights of ``shard`` in ``flat`` (parameters or gradient)."""
        start = self.layout.offset(shard.layer)
        size = shard.num_units * shard.num_inputs
        return flat[start : start + size].reshape(shard.num_units, shard.num_inputs)

    def bias(self, flat: Array, shard: LayerShard) -> Array | None:
        """Return the biases of ``shard`` in ``flat``, or None if another rank holds them."""
        if not shard.has_bias:
            return None
        start = self.layout.offset(shard.layer) + shard.num_units * shard.num_inputs
        return flat[start : start + shard.num_units]

    def initialise(self, seed: int) -> None:
        """Set the parameters to the share of the seeded weights that this rank holds."""
        self.parameters[...] = 0
        for shard in self.layout.shards:
            inputs, units = self.workload.widths[shard.layer : shard.layer + 2]
            full = initial_weights(seed, shard.layer, inputs, units, DTYPES[self.dtype])
            rows = slice(shard.out_start, shard.out_stop)
            self.weight(self.parameters, shard)[...] = full[rows, shard.in_start : shard.in_stop]
