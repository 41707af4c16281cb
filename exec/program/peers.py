"""Symbolic peers and parts: whom an op talks to, and which piece it moves, for any number of ranks.

A peer is written relative to the rank that executes the op, so one list of ops serves a whole
role. Inside a ``Repeat`` it may also move with the iteration ``k``.
"""

from dataclasses import dataclass

from exec.program.mesh import Axis, Mesh


@dataclass(frozen=True, slots=True)
class Shift:
    """The rank ``offset + step * k`` further along ``axis``, modulo its size.

    With ``block`` the axis is cut into blocks of so many coordinates, and the shift goes round the
    rank's own.
    """

    axis: Axis
    offset: int
    step: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True)
class Xor:
    """The partner whose coordinate along ``axis`` differs by the bits of ``distance``."""

    axis: Axis
    distance: int


@dataclass(frozen=True, slots=True)
class At:
    """The rank with the absolute coordinate ``index`` along ``axis``."""

    axis: Axis
    index: int


@dataclass(frozen=True, slots=True)
class AnyRank:
    """Whoever sends first: the source of a parameter server's receive."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Whoever sent the message that was received as ``id``: to whom a server answers."""

    id: str


@dataclass(frozen=True, slots=True)
class Rank:
    """One concrete rank; what a peer resolves to unless only the run can tell."""

    rank: int


Peer = Shift | Xor | At | AnyRank | Sender | Rank
Anchor = Shift | Xor


@dataclass(frozen=True, slots=True)
class Chunks:
    """A block of ``width`` chunks out of ``num_chunks``: the one that holds chunk ``anchor``.

    The anchor's coordinate is the number of its chunk. With ``node_size`` ranks on a node, the
    chunks of all first ranks of a node come first, then those of all second ones, and so on.
    """

    num_chunks: int
    anchor: Anchor
    width: int = 1
    node_size: int = 1

    def __post_init__(self) -> None:
        if self.node_size < 1 or self.num_chunks % self.node_size:
            raise ValueError(f"node_size must divide the {self.num_chunks} chunks, got "
                             f"{self.node_size}")  # fmt: skip
        if not 1 <= self.width <= self.num_chunks:
            raise ValueError(f"chunks must have 1 <= width <= num_chunks, got {self.width} of "
                             f"{self.num_chunks}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """Elements ``start`` to ``stop`` of a buffer, or the ``chunks`` of that range.

    Chunk borders fall on multiples of ``unit`` elements.
    """

    buffer: str
    start: int
    stop: int
    unit: int = 1
    chunks: Chunks | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"part must have 0 <= start <= stop, got {self.start}:{self.stop}")
        if self.unit < 1 or (self.stop - self.start) % self.unit:
            raise ValueError(f"unit must divide the {self.stop - self.start} elements of "
                             f"{self.buffer}, got {self.unit}")  # fmt: skip

    @property
    def size(self) -> int:
        """How many elements it has, all chunks together."""
        return self.stop - self.start


def split_start(total: int, num_parts: int, index: int) -> int:
    """Return where part ``index`` begins when ``total`` is split evenly, the first parts larger.

    >>> [split_start(7, 3, i) for i in range(4)]
    [0, 3, 5, 7]
    """
    size, larger = divmod(total, num_parts)
    return index * size + min(index, larger)


def split_size(total: int, num_parts: int, index: int) -> int:
    """Return the size of part ``index`` of ``total`` split evenly."""
    return total // num_parts + (index < total % num_parts)


def coordinate_of(peer: Shift | Xor | At, own: int, size: int, iteration: int = 0) -> int:
    """Return the coordinate that ``peer`` names, seen from coordinate ``own`` of ``size``."""
    match peer:
        case Shift(_, offset, step, block):
            around = block or size
            start = own // around * around
            return start + (own - start + offset + step * iteration) % around
        case Xor(_, distance):
            return own ^ distance
        case At(_, index):
            return index


def resolve_peer(peer: Peer, rank: int, mesh: Mesh, iteration: int = 0) -> Rank | AnyRank | Sender:
    """Return the concrete rank ``peer`` names for ``rank`` in iteration ``iteration``.

    A peer that only the run can tell stays as it is.
    """
    if isinstance(peer, Rank | AnyRank | Sender):
        return peer
    own, size = mesh.coordinate(rank, peer.axis), mesh.size(peer.axis)
    return Rank(mesh.moved(rank, peer.axis, coordinate_of(peer, own, size, iteration)))


def resolve_part(part: Part, rank: int, mesh: Mesh, iteration: int = 0) -> Part:
    """Return ``part`` with its chunks turned into a plain range for ``rank``."""
    if part.chunks is None:
        return part
    anchor, count, width = part.chunks.anchor, part.chunks.num_chunks, part.chunks.width
    own, size = mesh.coordinate(rank, anchor.axis), mesh.size(anchor.axis)
    node, place = divmod(coordinate_of(anchor, own, size, iteration), part.chunks.node_size)
    first = (place * (count // part.chunks.node_size) + node) // width * width
    units = (part.stop - part.start) // part.unit
    start = part.start + part.unit * split_start(units, count, first)
    stop = part.start + part.unit * split_start(units, count, first + width)
    return Part(part.buffer, start, stop, part.unit)
