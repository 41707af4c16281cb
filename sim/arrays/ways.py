"""Ways: from each rank of a piece to its peer, over which links, and what a message takes there.

A link between nodes is its node's, one inside a node its rank's; so where all ranks of a node send
to those of another at once, they share both links evenly, and each takes as many times longer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from exec.program.ops import Send
from exec.program.peers import AnyRank, Part, Peer, Rank, Sender, coordinate_of
from sim.arrays.irregular import IrregularError
from sim.arrays.pieces import AXES, Bools, Floats, Group, Ints, Layout, Piece, folded
from sim.costs import Costs


@dataclass(frozen=True, slots=True)
class Price:
    """What messages take once posted, or once received if ``is_held``: arrays (1, dp, pp, tp)."""

    latency_s: Floats
    transfer_s: Floats
    is_held: Bools


@dataclass(slots=True, eq=False)
class Way:
    """Where the ranks of ``piece`` send: to ``coordinates`` along axis number ``axis``.

    ``sources`` and ``dests`` are ranks, ``up`` and ``down`` numbers of links, all (dp, pp, tp).
    ``sharers`` says how many messages share the links of each, ``others`` whether some of them are of
    other pieces.
    """

    piece: Piece
    axis: int
    coordinates: Ints
    groups: list[Group]
    dests: Ints
    is_between: Bools  # nodes
    up: Ints
    down: Ints
    sharers: Ints
    others: bool
    prices: dict[int, Price] = field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        """Whether some of these messages share a link."""
        return bool((self.sharers > 1).any())


class Ways:
    """All ways of a program, each found once.

    With ``is_together`` the ranks of a node that send to peers of one name are taken to send at
    once, whatever their roles; :func:`sim.arrays.links.check_meetings` says whether they do.
    """

    def __init__(self, layout: Layout, costs: Costs, itemsize: int, *, is_together: bool) -> None:
        self.is_together = is_together
        self.layout, self.costs, self.itemsize = layout, costs, itemsize
        self._fabric = costs.fabric
        self._by_peer: dict[tuple[int, Peer, int], Way] = {}
        self._by_place: dict[tuple[int, int, bytes], Way] = {}
        self.num_links = 2 * (self._fabric.num_nodes + costs.mesh.world_size)

    def way(self, piece: Piece, peer: Peer, iteration: int) -> Way:
        """Return the way from ``piece`` to ``peer`` in an iteration of a repeat.

        Raises:
            IrregularError: only the run can tell who it is.
        """
        if isinstance(peer, AnyRank | Sender):
            raise IrregularError(f"ranks of {piece.role.name} talk to whoever comes first")
        if isinstance(peer, Rank):
            raise IrregularError(f"ranks of {piece.role.name} talk to rank {peer.rank} by number")
        key = piece.index, peer, iteration
        if key not in self._by_peer:
            axis = AXES.index(peer.axis)
            own = piece.coordinates[axis]
            found = coordinate_of(peer, own, self.layout.mesh.size(peer.axis), iteration)  # type: ignore[arg-type]  # of all at once
            coordinates = np.broadcast_to(np.asarray(found, np.intp), own.shape)
            place = piece.index, axis, coordinates.tobytes()
            if place not in self._by_place:
                self._by_place[place] = self._find(piece, axis, peer, coordinates)
            self._by_peer[key] = self._by_place[place]
        return self._by_peer[key]

    def _find(self, piece: Piece, axis: int, peer: Peer, coordinates: Ints) -> Way:
        dests, is_between, up, down = self._links(piece, axis, coordinates)
        groups = self.layout.groups(piece, axis, coordinates)
        sharers = self._sharers(up, down)
        total = sharers
        if self.is_together:
            pairs = up * self.num_links + down
            for other in self._beside(piece, axis, peer):
                _, _, theirs_up, theirs_down = self._links(other, axis, coordinates)
                theirs = theirs_up * self.num_links + theirs_down
                known, counts = np.unique(theirs, return_counts=True)
                at = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
                total = total + np.where(known[at] == pairs, counts[at], 0)
        has_others = bool((total != sharers).any())
        return Way(piece, axis, coordinates, groups, dests, is_between, up, down, total, has_others)

    def _beside(self, piece: Piece, axis: int, peer: Peer) -> Iterator[Piece]:
        """Yield the other pieces of the same coordinates along ``axis`` that send to such a peer."""
        for other in self.layout.pieces:
            if other is not piece and other.atoms[axis] == piece.atoms[axis]:
                sends = (op for op in other.role.ops if isinstance(op, Send))
                if any(op.peer == peer for op in sends):
                    yield other

    def _links(self, piece: Piece, axis: int, coordinates: Ints) -> tuple[Ints, Bools, Ints, Ints]:
        """Return dests, whether they are on other nodes, and the links there, all (dp, pp, tp)."""
        own = piece.coordinates[axis]
        moved = (coordinates - own) * self.layout.mesh.stride(AXES[axis])
        dests = piece.ranks + moved.reshape([-1 if i == axis else 1 for i in range(3)])
        nodes, others = self._nodes(piece.ranks), self._nodes(dests)
        is_between = nodes != others
        num_nodes, half = self._fabric.num_nodes, self.num_links // 2
        up = np.where(is_between, nodes, num_nodes + piece.ranks)
        down = half + np.where(is_between, others, num_nodes + dests)
        return dests, is_between, up, down

    def _nodes(self, ranks: Ints) -> Ints:
        guests, fabric = self._fabric.guests, self._fabric
        own = (ranks - guests) // fabric.ranks_per_node
        return own if not guests else np.where(ranks < guests, ranks * fabric.num_nodes // guests, own)  # fmt: skip

    def _sharers(self, up: Ints, down: Ints) -> Ints:
        """Return how many messages share both links of each.

        Raises:
            IrregularError: some share one of their links only.
        """
        ups = np.bincount(up.ravel())[up]
        downs = np.bincount(down.ravel())[down]
        both = np.unique(up * self.num_links + down, return_inverse=True, return_counts=True)
        pairs: Ints = both[2][both[1]].reshape(up.shape)
        for links, counts in ((up, ups), (down, downs)):
            if (counts != pairs).any():
                link = int(links[counts != pairs][0])
                raise IrregularError(f"messages of several ranks meet on {self.link_name(link)}")
        return pairs

    def link_name(self, link: int) -> str:
        """Return what link number ``link`` is called."""
        is_down, place = divmod(link, self.num_links // 2)
        num_nodes = self._fabric.num_nodes
        if place < num_nodes:
            return f"node{place}.{'down' if is_down else 'up'}"
        return f"rank{place - num_nodes}.{'in' if is_down else 'out'}"

    def price(self, way: Way, nbytes: int | Ints) -> Price:
        """Return what messages of ``nbytes`` take on ``way``; arrays are (dp, pp, tp)."""
        if isinstance(nbytes, int):
            if nbytes not in way.prices:
                way.prices[nbytes] = self._price(way, nbytes)
            return way.prices[nbytes]
        sizes = np.unique(nbytes).tolist()
        found = self.price(way, sizes[0])
        for size in sizes[1:]:
            other, is_it = self.price(way, size), (nbytes == size)[None]
            found = Price(
                np.where(is_it, other.latency_s, found.latency_s),
                np.where(is_it, other.transfer_s, found.transfer_s),
                np.where(is_it, other.is_held, found.is_held),
            )
        return found

    def _price(self, way: Way, nbytes: int) -> Price:
        latency_s, transfer_s = np.empty(way.up.shape), np.empty(way.up.shape)
        is_held = np.empty(way.up.shape, np.bool_)
        for is_between in np.unique(way.is_between).tolist():
            for sharers in np.unique(way.sharers[way.is_between == is_between]).tolist():
                are_so = (way.is_between == is_between) & (way.sharers == sharers)
                found = self.price_of(way, nbytes, is_between=is_between, sharers=sharers)
                latency_s[are_so], transfer_s[are_so], is_held[are_so] = found
        return Price(folded(latency_s)[None], folded(transfer_s)[None], folded(is_held)[None])

    def price_of(self, way: Way, nbytes: int, *, is_between: bool, sharers: int) -> tuple[float, float, bool]:  # fmt: skip
        """Return latency and transfer of a message that shares its links so, and whether it is held."""
        place = np.unravel_index(np.argmax(way.is_between == is_between), way.up.shape)
        source, dest = int(way.piece.ranks[place]), int(way.dests[place])
        transfer = self.costs.transfer(nbytes, source, dest)
        narrowest = min(map(self.costs.capacity, transfer.route), default=math.inf)
        rate = min(narrowest / sharers, transfer.bytes_per_s)
        transfer_s = transfer.nbytes / rate if transfer.nbytes else 0.0
        is_held = self.costs.waits_for_receive(nbytes, source, dest)
        return transfer.latency_s, transfer_s, is_held


def num_elements(part: Part, piece: Piece, size: int, iteration: int) -> int | Ints:
    """Return the size of ``part`` for each rank of ``piece`` (dp, pp, tp), or that of all.

    ``size`` is how many coordinates its anchor's axis has.
    """
    if part.chunks is None:
        return part.size
    axis = AXES.index(part.chunks.anchor.axis)
    sizes = chunk_sizes(part, size)[_anchored(part, piece.coordinates[axis], size, iteration)]
    if (sizes == sizes[0]).all():
        return int(sizes[0])
    return sizes.reshape([-1 if i == axis else 1 for i in range(3)])


def _anchored(part: Part, own: Ints, size: int, iteration: int) -> Ints:
    assert part.chunks is not None
    found = coordinate_of(part.chunks.anchor, own, size, iteration)  # type: ignore[arg-type]  # of all at once
    return np.asarray(found, np.intp)


def chunk_sizes(part: Part, size: int) -> Ints:
    """Return the elements of the chunks of ``part``, by the coordinate of their anchor."""
    assert part.chunks is not None
    chunks = part.chunks
    node, place = np.divmod(np.arange(size), chunks.node_size)
    first = (place * (chunks.num_chunks // chunks.node_size) + node) // chunks.width * chunks.width
    least, larger = divmod(part.size // part.unit, chunks.num_chunks)
    start, stop = (
        edge * least + np.minimum(edge, larger) for edge in (first, first + chunks.width)
    )
    elements: Ints = (stop - start) * part.unit
    return elements
