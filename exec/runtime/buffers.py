"""The arrays of one rank, allocated once, exactly as its role and its layout list them."""

from dataclasses import dataclass, field
from typing import Any

from exec.device.array import DeviceArray
from exec.device.protocol import Device
from exec.device.protocol import zeros as device_zeros
from exec.nn.backend import DTYPES, Array, xp
from exec.plan.layout import Layout
from exec.program.peers import Part
from exec.program.program import Role
from exec.runtime.pieces import initial_share
from exec.workload import Workload

Numbers = Any  # a NumPy array or, on a device, a DeviceArray: both are sliced and reshaped alike


@dataclass(slots=True)
class Buffers:
    """Flat buffers (what ``role`` holds) and, where it trains, the activations of every slot.

    ``rows`` is the most samples that a microbatch of this rank will have, 0 if it does not train;
    smaller microbatches use the front of a buffer. ``shared`` are flat buffers in shared memory, by
    rank: of the parameters all use the first's, of the others ``rank`` uses its own. With a
    ``device`` the arrays are in its memory; the host then looks at copies.
    """

    workload: Workload
    layout: Layout
    role: Role
    rows: int
    scratch_elements: int
    dtype: str
    rank: int = 0
    shared: dict[str, dict[int, Numbers]] = field(default_factory=dict)
    device: Device | None = None
    arrays: dict[str, Numbers] = field(init=False)
    _starts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        def zeros(size: int) -> Numbers:
            if self.device is not None:
                return device_zeros(self.device, size, DTYPES[self.dtype])
            return xp.zeros(size, DTYPES[self.dtype])

        self.arrays = {part.buffer: zeros(part.size) for part in self.role.holds if part.buffer not in self.shared}  # fmt: skip
        for name, windows in self.shared.items():
            self.arrays[name] = windows[min(windows) if name == "param" else self.rank]
        self._starts = {part.buffer: part.start for part in self.role.holds}
        if "scratch" not in self.arrays:
            self.arrays["scratch"] = zeros(self.scratch_elements)
        if self.rows:
            shared = self.layout.shared_elements(self.rows)
            self.arrays |= {name: zeros(size) for name, size in shared.items()}
            for name, size in self.layout.slot_elements(self.rows).items():
                for slot in range(self.role.slots):
                    self.arrays[f"{name}.{slot}"] = zeros(size)

    def flat(self, name: str) -> Numbers:
        """Return the parameters, gradients, velocities or statistics that this rank holds.

        The parameters are without a ticket after them.
        """
        if name == "param":
            return self.arrays["param"][: self.layout.num_parameters - self._starts["param"]]
        if name == "stat" and "stat" not in self.arrays:
            return self.arrays["param"][:0]
        return self.arrays[name]

    @property
    def has_velocity(self) -> bool:
        """Whether this rank holds velocities."""
        return "velocity" in self.arrays

    @property
    def parameters(self) -> Array:
        """The parameters that this rank holds, for the host."""
        return self.look(self.flat("param"))

    @property
    def velocity(self) -> Array | None:
        """The velocities that this rank holds, for the host, or None."""
        return self.look(self.flat("velocity")) if self.has_velocity else None

    @property
    def stats(self) -> Array:
        """The running means and variances that this rank holds, perhaps none, for the host."""
        return self.look(self.flat("stat"))

    def look(self, numbers: Numbers) -> Array:
        """Return ``numbers`` for the host to read; on a device that is a copy, when all is done."""
        if self.device is not None:
            return self.device.read(numbers)
        found: Array = numbers
        return found

    def put(self, numbers: Numbers, values: Array) -> None:
        """Set ``numbers`` to ``values``, which are on the host."""
        if self.device is None:
            numbers[...] = values
        elif isinstance(numbers, DeviceArray):
            self.device.write(numbers, values)

    @property
    def is_whole(self) -> bool:
        """Whether the parameters are all of the layout's, and not a server's piece."""
        return bool(self.flat("param").size == self.layout.num_parameters)

    @property
    def nbytes(self) -> int:
        """All that is allocated here."""
        return sum(array.nbytes for array in self.arrays.values())

    def matrix(self, name: str, height: int, width: int) -> Numbers:
        """Return the front of buffer ``name`` as a ``height`` x ``width`` matrix."""
        return self.arrays[name][: height * width].reshape(height, width)

    def part(self, part: Part) -> Numbers:
        """Return the elements of a concrete ``part``."""
        return self._range(self.arrays[part.buffer], part)

    def window(self, part: Part, rank: int) -> Numbers:
        """Return the elements of ``part`` in the window of ``rank``."""
        return self._range(self.shared[part.buffer][rank], part)

    def _range(self, array: Numbers, part: Part) -> Numbers:
        start = self._starts.get(part.buffer, 0)
        return array[part.start - start : part.stop - start]

    def initialise(self, seed: int, start: int = 0) -> None:
        """Set the parameters to the share of the seeded weights that this rank holds."""
        flat, stats = initial_share(self.layout, seed, self.dtype, start)
        self.set_parameters(flat)
        self.set_stats(stats)

    def set_parameters(self, flat: Array) -> None:
        """Set the parameters to this rank's piece of ``flat``, all parameters of the layout."""
        piece = self.flat("param")
        start = self._starts["param"]
        self.put(piece, flat[start : start + piece.size])

    def set_stats(self, stats: Array) -> None:
        """Set the running statistics that this rank holds, if it holds any."""
        if (held := self.flat("stat")).size:
            self.put(held, stats)
