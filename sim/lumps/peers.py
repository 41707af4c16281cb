"""Peers of lumps: whom all members of a lump talk to, and how much they say, or the cut if they differ."""

from collections.abc import Callable
from typing import NoReturn

import numpy as np

from exec.program.mesh import Axis
from exec.program.peers import coordinate_of
from exec.program.program import Program
from sim.arrays.pieces import Bools, Ints
from sim.arrays.ways import chunk_sizes
from sim.bound_ops import Post, Sum
from sim.lumps.code import Named, Step
from sim.lumps.state import NONE, Channel, Lump, Way
from sim.peer_formulas import moves


class Peers:
    """The peers of ``lumps``; ``lump_of`` and ``nodes`` are those of ranks, ``cut`` cuts a lump by labels."""

    def __init__(
        self, program: Program, lumps: list[Lump], lump_of: Ints, nodes: Ints,
        cut: Callable[[Lump, Ints], NoReturn],
    ) -> None:  # fmt: skip
        self.program, self.lumps, self.lump_of, self.cut = program, lumps, lump_of, cut
        self._nodes = nodes
        self._tables: dict[Step, Ints] = {}

    def size(self, lump: Lump, step: Step, k: int) -> int:
        """Return the elements of the chunk that every member of ``lump`` handles in round ``k``."""
        size = lump.sizes.get((step, k))
        if size is None and len(lump.members) == 1:
            rank = int(lump.members[0])
            if isinstance(step.verb, Sum):
                return step.verb.size_of(rank, k)
            assert isinstance(step.verb, Post)
            return step.verb.nbytes_of(rank, k) // self.program.itemsize
        if size is None:
            assert step.part is not None
            assert step.part.chunks is not None
            anchor, mesh = step.part.chunks.anchor, self.program.mesh
            around = mesh.size(anchor.axis)
            if step not in self._tables:
                self._tables[step] = chunk_sizes(step.part, around)
            own = lump.members // mesh.stride(anchor.axis) % around
            sizes = self._tables[step][coordinate_of(anchor, own, around, k)]  # type: ignore[arg-type]  # of all at once
            if (sizes != sizes[0]).any():
                self.cut(lump, sizes)
            size = lump.sizes[step, k] = int(sizes[0])
        return size

    def named(self, lump: Lump, peer: Named, k: int) -> Ints:
        """Return whom ``peer`` names for each member of ``lump``."""
        key = peer, k if moves(peer) else 0
        found = lump.named.get(key)
        if found is None:
            mesh = self.program.mesh
            stride, size = mesh.stride(peer.axis), mesh.size(peer.axis)
            own = lump.members // stride % size
            other: Ints = np.asarray(coordinate_of(peer, own, size, k), np.intp)  # type: ignore[arg-type]  # of all at once
            found = lump.named[key] = lump.members + (other - own) * stride
        return found

    def way(self, lump: Lump, peer: Named, k: int) -> Way:
        """Return the way from ``lump`` to ``peer``, which is a lump of as many ranks."""
        key = peer, k if moves(peer) else 0
        way = lump.ways.get(key)
        if way is not None and way.version == way.dest.version:
            return way
        dests = self.named(lump, peer, k)
        order = np.argsort(dests, kind="stable")
        is_again = np.diff(dests[order], prepend=NONE) == 0
        if is_again.any():
            self.cut(lump, np.argsort(order))
        numbers = self.lump_of[dests]
        if (numbers != numbers[0]).any():
            self.cut(lump, numbers)
        dest = self.lumps[numbers[0]]
        if len(dest.members) > len(dests):
            self.cut(dest, np.isin(dest.members, dests).astype(np.intp))
        is_inside = self._nodes[dests] == self._nodes[lump.members]
        if is_inside.any() and not is_inside.all():
            self.cut(lump, is_inside.astype(np.intp))
        channel = lump.channels.setdefault(dests.tobytes(), Channel(dests))
        way = lump.ways[key] = Way(dest, dest.version, dests, lump.members[order], channel)
        return way

    def see_channels(self, lump: Lump, own: Channel) -> None:
        """Cut ``lump`` if only some of its ranks have messages to those of ``own`` on another channel."""
        for other in lump.channels.values():
            if other is not own and other.flows and (is_same := other.dests == own.dests).any():
                self.cut(lump, is_same.astype(np.intp))

    def met(self, lump: Lump, axis: Axis, is_there: Callable[[Lump], bool]) -> list[Lump]:
        """Return the lumps of all groups along ``axis`` that ``lump`` is in; none unless all are there."""
        mesh = self.program.mesh
        stride, size = mesh.stride(axis), mesh.size(axis)
        firsts = lump.members - lump.members // stride % size * stride
        groups = firsts[:, None] + np.arange(size) * stride
        numbers = self.lump_of[groups]
        others = {number: self.lumps[number] for number in np.unique(numbers).tolist()}
        here = [number for number, other in others.items() if is_there(other)]
        is_full: Bools = np.all(np.isin(numbers, here), axis=1)
        if not is_full.any():
            return []
        if not is_full.all():
            self.cut(lump, is_full.astype(np.intp))
        for other in others.values():
            is_in = np.isin(other.members, groups)
            if not is_in.all():
                self.cut(other, is_in.astype(np.intp))
        return list(others.values())
