"""Rooms: the few arrays in which all values of a network take turns when nothing is learnt.

A room is free for another value as soon as nobody has still to read the one in it, and what can be
done in place is.
"""

from dataclasses import dataclass, field

from exec.network.modules import Add, BatchNorm2d, Flatten, ReLU, Sigmoid
from exec.network.network import INPUT, Network

AS_THEY_COME = -1
"""Where images are that only dense layers take: they need no room."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """``of`` says in which room each value is, ``sizes`` how many numbers a sample has in each."""

    of: dict[int, int]
    sizes: tuple[int, ...]


def rooms_of(network: Network, *, flattens_in_place: bool = True) -> Rooms:
    """Return the rooms that an evaluation of ``network`` needs.

    Where flattening moves numbers, a flattened value has a room of its own unless nobody else reads
    what it is made of.

    >>> from exec.network.network import mlp
    >>> rooms_of(mlp(128, 100, 50, 26)).sizes
    (100, 50)
    """
    house, of = _House(), dict[int, int]()
    of[INPUT] = AS_THEY_COME if network.takes_rows else house.take(network.num_features)
    house.unread[of[INPUT]] += len(network.consumers[INPUT])
    for index, node in enumerate(network.nodes):
        read = [of[value] for value in node.inputs]
        replaced = [room for room in read if house.unread[room] == 1 and room != AS_THEY_COME]
        is_free = flattens_in_place or read[0] == AS_THEY_COME or bool(replaced)
        if isinstance(node.module, Flatten) and is_free:
            room = read[0]
        elif isinstance(node.module, ReLU | Sigmoid | BatchNorm2d | Add) and replaced:
            room = replaced[0]
        else:
            room = house.take(network.width(index))
        of[index] = room
        house.unread[room] += len(network.consumers[index])
        for before in read:
            house.leave(before)
    return Rooms(of, tuple(house.sizes))


@dataclass(slots=True)
class _House:
    """``unread`` is how many nodes have still to read each room."""

    sizes: list[int] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    unread: dict[int, int] = field(default_factory=lambda: {AS_THEY_COME: 0})

    def take(self, width: int) -> int:
        """Return a room for a value: the smallest free one that is large enough, or the largest."""
        if not self.free:
            self.sizes.append(width)
            self.unread[len(self.sizes) - 1] = 0
            return len(self.sizes) - 1
        fitting = [room for room in self.free if self.sizes[room] >= width]
        room = min(fitting or [max(self.free, key=self.sizes.__getitem__)], key=self.sizes.__getitem__)  # fmt: skip
        self.free.remove(room)
        self.sizes[room] = max(self.sizes[room], width)
        return room

    def leave(self, room: int) -> None:
        """Note that a node has read ``room``."""
        self.unread[room] -= 1
        if not self.unread[room] and room != AS_THEY_COME:
            self.free.append(room)
