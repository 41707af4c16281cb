"""Rounds: a repeat in which chunks go round rings, found in a program and done by the kernel."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exec.program.ops import Accumulate, Receive, Repeat, Send, Wait
from exec.program.peers import Part, Shift
from sim.arrays.irregular import IrregularError
from sim.arrays.mail import Mail
from sim.arrays.pieces import AXES, Bools, Floats, Ints, Numbers, Piece
from sim.arrays.ring import Table, play_ring
from sim.arrays.ways import Way, Ways, chunk_sizes


@dataclass(frozen=True, slots=True)
class Round:
    """A repeat that hands the chunks of ``part`` round, ``distance`` further along ``axis``.

    Each rank begins with the chunk of the rank ``first`` places further.
    """

    id: str
    axis: int
    distance: int
    block: int
    num_steps: int
    first: int
    part: Part
    is_added: bool
    peer: Shift


def round_of(op: Repeat) -> Round | None:
    """Return what ``op`` hands round, or None if it does something else."""
    match op.body:
        case (Send(id, out, Shift(axis, distance, 0, block) as peer), Receive(_, into, Shift() as source), Wait(_, sent), *more):  # fmt: skip
            is_added = [type(each) for each in more] == [Accumulate]
            if out.chunks is None or into.chunks is None or sent != id or (more and not is_added):
                return None
            anchor, other = out.chunks.anchor, into.chunks.anchor
            if not (isinstance(anchor, Shift) and isinstance(other, Shift)):
                return None
            first, rest = divmod(anchor.offset, distance) if distance > 0 else (0, 1)
            back = Shift(axis, anchor.offset - distance, -distance, block)
            expected = Shift(axis, -distance, 0, block), Shift(axis, anchor.offset, -distance, block), back  # fmt: skip
            if rest or (source, anchor, other) != expected:
                return None
            if is_added:
                assert isinstance(more[0], Accumulate)
                if more[0].peer is not None or more[0].into.chunks != into.chunks:
                    return None
            return Round(
                id, AXES.index(axis), distance, block, op.count, first, out, is_added, peer
            )
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Member:
    """A piece of a round, and when its ranks begin."""

    piece: Piece
    round: Round
    start_s: Floats


def play_round(members: list[Member], ways: Ways, mail: Mail) -> list[Floats]:
    """Return when the ranks of ``members``, which are all along the axis, are through the round.

    Raises:
        IrregularError: they do not all do the same, or cannot by themselves.
    """
    told = members[0].round
    if any(_alike(each.round) != _alike(told) for each in members):
        raise IrregularError(f"ranks hand other parts round in {told.id}")
    game = _Game(members, ways, told)
    ends_s = game.play()
    found = []
    for member, places in zip(members, game.places, strict=True):
        end_s = ends_s if ends_s.shape[told.axis + 1] == 1 else np.take(ends_s, places, told.axis + 1)  # fmt: skip
        way = ways.way(member.piece, told.peer, 0)
        mail.carried(way, member.start_s, end_s)
        found.append(end_s)
    return found


def _alike(told: Round) -> tuple[object, ...]:
    part = told.part
    return (told.axis, told.distance, told.block, told.num_steps, told.first, told.is_added,
            part.size, part.unit, part.chunks)  # fmt: skip


class _Game:
    """The rings of a round, as arrays (replicas, rings, places)."""

    def __init__(self, members: list[Member], ways: Ways, told: Round) -> None:
        self.members, self.ways, self.told = members, ways, told
        self.size = ways.layout.mesh.size(AXES[told.axis])
        self.places = [each.piece.coordinates[told.axis] for each in members]
        self.num_places = (told.block or self.size) // told.distance
        self.itemsize = ways.itemsize

    def play(self) -> Floats:
        """Return when all are through, (replicas, dp, pp, tp) of the whole axis."""
        told = self.told
        axis = told.axis + 1
        start_s = self._whole([each.start_s for each in self.members])
        elements = chunk_sizes(told.part, self.size)
        tables, is_held = self._tables(elements)
        is_folded = start_s.shape[axis] == 1
        if is_folded and len(tables) == 1 and tables[0].where is None and (elements == elements[0]).all():  # fmt: skip
            tables = [Table(tables[0].move_s[:1, :1], tables[0].add_s[:1, :1])]
            flat = start_s.reshape(-1, 1, 1)
            return play_ring(flat, tables, told.num_steps, 0, is_held=is_held).reshape(
                start_s.shape
            )
        if is_folded:
            start_s = np.repeat(start_s, self.size, axis)
        rings = self._rings(np.moveaxis(start_s, axis, -1))
        masks = [table.where for table in tables if table.where is not None]
        shape = np.broadcast_shapes(rings.shape, *(mask.shape for mask in masks))
        flat = np.broadcast_to(rings, shape).reshape(-1, *shape[-2:])
        tables = [replace(table, where=_flat(table.where, shape)) for table in tables]
        ends = play_ring(flat, tables, told.num_steps, told.first, is_held=is_held).reshape(shape)
        return np.moveaxis(self._line(ends), -1, axis)

    def _whole(self, values: list[Floats]) -> Floats:
        """Return ``values`` of the members put together along the axis."""
        axis = self.told.axis + 1
        if len(values) == 1:
            return values[0]
        shapes = [(*each.shape[:axis], 1, *each.shape[axis + 1 :]) for each in values]
        shape = list(np.broadcast_shapes(*shapes))
        shape[axis] = self.size
        whole = np.empty(shape)
        for places, value in zip(self.places, values, strict=True):
            where: list[object] = [slice(None)] * 4
            where[axis] = places
            whole[tuple(where)] = value  # type: ignore[index]
        return whole

    def _rings(self, line: NDArray[Numbers]) -> NDArray[Numbers]:
        """Return (..., size) as (..., rings, places)."""
        told = self.told
        if told.block:
            return np.ascontiguousarray(line.reshape(*line.shape[:-1], -1, told.block))
        pairs = line.reshape(*line.shape[:-1], self.num_places, told.distance)
        return np.ascontiguousarray(np.swapaxes(pairs, -1, -2))

    def _line(self, rings: Floats) -> Floats:
        """Return (..., rings, places) as (..., size)."""
        line = rings if self.told.block else np.swapaxes(rings, -1, -2)
        return line.reshape(*line.shape[:-2], self.size)

    def _tables(self, elements: Ints) -> tuple[list[Table], bool]:
        """Return what chunks cost: one table of all ranks, then those of ranks that differ."""
        by_class: dict[object, tuple[Table, Bools]] = {}
        held: set[bool] = set()
        costs, told = self.ways.costs, self.told
        sizes, which = np.unique(elements, return_inverse=True)
        for member, places in zip(self.members, self.places, strict=True):
            way = self.ways.way(member.piece, told.peer, 0)
            self._check(way, elements)
            nbytes = member.piece.role.nbytes if told.is_added else 0
            adds_s = np.array([costs.accumulate_s(int(size), nbytes) if told.is_added else 0.0 for size in sizes])  # fmt: skip
            at = told.axis
            lines = np.moveaxis(way.is_between, at, -1)
            shares = np.moveaxis(way.sharers, at, -1)
            for between in np.unique(lines).tolist():
                for sharers in np.unique(shares[lines == between]).tolist():
                    is_it = (lines == between) & (shares == sharers)
                    moves_s = []
                    for size in sizes.tolist():
                        price = self.ways.price_of(
                            way, size * self.itemsize, is_between=between, sharers=sharers
                        )
                        moves_s.append(price[0] + price[1])
                        held.add(price[2])
                    key = tuple(moves_s), tuple(adds_s.tolist())
                    _, mask = by_class.get(key, (None, None))
                    if mask is None:
                        mask = np.zeros((*_lead(way, at), self.size), np.bool_)
                        table = Table(self._rings(np.array(moves_s)[which]), self._rings(adds_s[which]))  # fmt: skip
                        by_class[key] = table, mask
                    mask[..., places] |= is_it
        if len(held) > 1:
            raise IrregularError(f"only some messages of {told.id} wait for their receives")
        tables = sorted(by_class.values(), key=lambda each: -int(each[1].sum()))
        first = tables[0][0]
        others = [
            Table(table.move_s, table.add_s, self._rings(_narrow(mask)))
            for table, mask in tables[1:]
        ]
        return [first, *others], held.pop()

    def _check(self, way: Way, elements: Ints) -> None:
        """Raise unless ranks that share links begin together, and send as much in every step."""
        if not way.is_shared:
            return
        if way.others:
            raise IrregularError(f"ranks of several roles share a node's link in {self.told.id}")
        axis = self.told.axis
        lines = np.moveaxis(np.where(way.sharers > 1, way.up, -1), axis, -1)
        lines = lines.reshape(-1, lines.shape[-1])
        is_inside = any(len(np.unique(line[line >= 0])) < (line >= 0).sum() for line in lines)
        for each in self.members:
            sizes = [size for i, size in enumerate(each.start_s.shape) if i and i != axis + 1]
            if max(sizes) > 1 or (is_inside and each.start_s.shape[axis + 1] > 1):
                raise IrregularError(f"ranks of a node send at other times in {self.told.id}")
        if is_inside and (len(self.members) > 1 or (elements != elements[0]).any()):
            raise IrregularError(f"ranks of a node send unequal chunks in {self.told.id}")


def _flat(mask: Bools | None, shape: tuple[int, ...]) -> Bools | None:
    """Return ``mask`` as the kernel takes it, of times of ``shape``."""
    if mask is None:
        return None
    if mask.size == mask.shape[-1] * mask.shape[-2]:
        return mask.reshape(1, *mask.shape[-2:])
    return np.broadcast_to(mask, shape).reshape(-1, *shape[-2:])


def _narrow(mask: Bools) -> Bools:
    """Return ``mask`` with a 1 for each axis but the last along which it does not differ."""
    for axis in range(mask.ndim - 1):
        first = mask[(slice(None),) * axis + (slice(0, 1),)]
        if np.array_equal(np.broadcast_to(first, mask.shape), mask):
            mask = first
    return mask


def _lead(way: Way, axis: int) -> tuple[int, ...]:
    shape = way.up.shape
    return (*shape[:axis], *shape[axis + 1 :])
