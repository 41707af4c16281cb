"""Formulas: peers and sizes of a role's ops as functions of the rank and of the iteration ``k``.

They give what :func:`~exec.program.peers.resolve_peer` and ``resolve_part`` do, without making a
value for each message: a simulator asks some hundred thousand times a second.
"""

from collections.abc import Callable

from exec.program.mesh import Mesh
from exec.program.peers import At, Part, Rank, Shift, Xor, coordinate_of

Formula = Callable[[int, int], int]
"""Return a number for a rank, in iteration ``k``."""


def always(number: int) -> Formula:
    """Return the formula of what is the same for all ranks and iterations."""
    return lambda _rank, _k: number


def peer_of(peer: Shift | Xor | At | Rank, mesh: Mesh) -> Formula:
    """Return the rank that ``peer`` names."""
    if isinstance(peer, Rank):
        return always(peer.rank)
    stride, size = mesh.stride(peer.axis), mesh.size(peer.axis)
    if isinstance(peer, Shift) and not peer.block:
        offset, step = peer.offset, peer.step

        def shifted(rank: int, k: int) -> int:
            own = rank // stride % size
            return rank + ((own + offset + step * k) % size - own) * stride

        return shifted

    def named(rank: int, k: int) -> int:
        own = rank // stride % size
        return rank + (coordinate_of(peer, own, size, k) - own) * stride

    return named


def moves(peer: object) -> bool:
    """Say whether ``peer`` is another one in the next iteration."""
    return isinstance(peer, Shift) and peer.step != 0


def size_of(part: Part, mesh: Mesh, scale: int = 1) -> int | Formula:
    """Return ``scale`` times the elements of ``part``: a number if all its chunks are of one size."""
    if part.chunks is None:
        return part.size * scale
    count, width, node_size = part.chunks.num_chunks, part.chunks.width, part.chunks.node_size
    unit, (small, larger) = part.unit * scale, divmod(part.size // part.unit, count)
    least = unit * width * small  # and a unit more for each larger chunk in the block
    if not larger:
        return least
    anchor = part.chunks.anchor
    stride, around = mesh.stride(anchor.axis), mesh.size(anchor.axis)
    if width == node_size == 1 and isinstance(anchor, Shift) and not anchor.block:
        offset, step, most = anchor.offset, anchor.step, least + unit
        return lambda rank, k: most if (rank // stride + offset + step * k) % around < larger else least  # fmt: skip
    nodes = count // node_size

    def size(rank: int, k: int) -> int:
        coordinate = coordinate_of(anchor, rank // stride % around, around, k)
        node, place = divmod(coordinate, node_size)
        first = (place * nodes + node) // width * width
        return least + unit * (min(first + width, larger) - min(first, larger))

    return size
