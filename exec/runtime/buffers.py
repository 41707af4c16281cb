"""The arrays of one rank, allocated once, exactly as its role and its layout list them."""

from dataclasses import dataclass, field

from exec.nn.backend import DTYPES, Array, xp
from exec.plan.layout import Layout
from exec.program.peers import Part
from exec.program.program import Role
from exec.runtime.pieces import initial_share
from exec.workload import Workload


@dataclass(slots=True)
class Buffers:
    """Flat buffers (what ``role`` holds) and, where it trains, the activations of every slot.

    ``rows`` is the most samples that a microbatch of this rank will have, 0 if it does not train;
    smaller microbatches use the front of a buffer. ``shared`` are flat buffers in shared memory,
    every rank's: of the parameters all use rank 0's, of the others ``rank`` uses its own.
    """

    workload: Workload
    layout: Layout
    role: Role
    rows: int
    scratch_elements: int
    dtype: str
    rank: int = 0
    shared: dict[str, list[Array]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(init=False)
    _starts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        def zeros(size: int) -> Array:
            return xp.zeros(size, DTYPES[self.dtype])

        self.arrays = {part.buffer: zeros(part.size) for part in self.role.holds if part.buffer not in self.shared}  # fmt: skip
        for name, windows in self.shared.items():
            self.arrays[name] = windows[0] if name == "param" else windows[self.rank]
        self._starts = {part.buffer: part.start for part in self.role.holds}
        if "scratch" not in self.arrays:
            self.arrays["scratch"] = zeros(self.scratch_elements)
        if self.rows:
            shared = self.layout.shared_elements(self.rows)
            self.arrays |= {name: zeros(size) for name, size in shared.items()}
            for name, size in self.layout.slot_elements(self.rows).items():
                for slot in range(self.role.slots):
                    self.arrays[f"{name}.{slot}"] = zeros(size)

    @property
    def parameters(self) -> Array:
        """The parameters that this rank holds, without a ticket after them."""
        start = self._starts["param"]
        return self.arrays["param"][: self.layout.num_parameters - start]

    @property
    def velocity(self) -> Array | None:
        """The velocities that this rank holds, or None."""
        return self.arrays.get("velocity")

    @property
    def stats(self) -> Array:
        """The running means and variances that this rank holds, perhaps none."""
        return self.arrays.get("stat", self.parameters[:0])

    @property
    def is_whole(self) -> bool:
        """Whether the parameters are all of the layout's, and not a server's piece."""
        return self.parameters.size == self.layout.num_parameters

    @property
    def nbytes(self) -> int:
        """All that is allocated here."""
        return sum(array.nbytes for array in self.arrays.values())

    def matrix(self, name: str, height: int, width: int) -> Array:
        """Return the front of buffer ``name`` as a ``height`` x ``width`` matrix."""
        return self.arrays[name][: height * width].reshape(height, width)

    def part(self, part: Part) -> Array:
        """Return the elements of a concrete ``part``."""
        return self._range(self.arrays[part.buffer], part)

    def window(self, part: Part, rank: int) -> Array:
        """Return the elements of ``part`` in the window of ``rank``."""
        return self._range(self.shared[part.buffer][rank], part)

    def _range(self, array: Array, part: Part) -> Array:
        start = self._starts.get(part.buffer, 0)
        return array[part.start - start : part.stop - start]

    def initialise(self, seed: int, start: int = 0) -> None:
        """Set the parameters to the share of the seeded weights that this rank holds."""
        flat, stats = initial_share(self.layout, seed, self.dtype, start)
        self.set_parameters(flat)
        if self.stats.size:
            self.stats[...] = stats

    def set_parameters(self, flat: Array) -> None:
        """Set the parameters to this rank's piece of ``flat``, all parameters of the layout."""
        piece = self.parameters
        start = self._starts["param"]
        piece[...] = flat[start : start + piece.size]
