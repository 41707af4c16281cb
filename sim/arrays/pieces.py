"""Pieces: the ranks of a role, cut so that two pieces have equal coordinates along an axis or none.

A piece is a box of the mesh. What all its ranks have in common is one number, whatever their
count: a time is an array of shape (replicas, dp, pp, tp) of the box, with a 1 wherever it does
not differ along an axis. So ranks that cannot differ are folded by NumPy's broadcasting itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from exec.program.mesh import Axis, Mesh
from exec.program.program import Program, Role

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
Numbers = TypeVar("Numbers", np.float64, np.bool_)
AXES = tuple(Axis)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Ranks of ``role``: those at ``coordinates`` along dp, pp and tp, which ``atoms`` number."""

    index: int
    role: Role
    atoms: tuple[int, int, int]
    coordinates: tuple[Ints, Ints, Ints]
    ranks: Ints  # (dp, pp, tp)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Of those that a piece talks to, the ones of one piece: their places, and its own."""

    piece: Piece
    own: Ints
    theirs: Ints


class Layout:
    """All pieces of a program, and where each coordinate is."""

    def __init__(self, program: Program) -> None:
        self.mesh = program.mesh
        self.pieces: list[Piece] = []
        self._at: dict[tuple[int, int, int], Piece] = {}
        self._atoms = [atoms_of(program.roles, program.mesh, axis) for axis in AXES]
        self._places = [_places(atoms, program.mesh.size(axis)) for atoms, axis in zip(self._atoms, AXES, strict=True)]  # fmt: skip
        for role in program.roles:
            for numbers in self._cut(role):
                piece = self._piece(role, numbers)
                self.pieces.append(piece)
                self._at[numbers] = piece

    def _cut(self, role: Role) -> Iterator[tuple[int, int, int]]:
        """Yield the atoms of each piece of ``role``."""
        found = [
            np.unique(places[0][np.asarray(role.span(axis), np.intp)]).tolist()
            for places, axis in zip(self._places, AXES, strict=True)
        ]
        for dp in found[0]:
            for pp in found[1]:
                for tp in found[2]:
                    yield dp, pp, tp

    def _piece(self, role: Role, numbers: tuple[int, int, int]) -> Piece:
        dp, pp, tp = (atoms[number] for atoms, number in zip(self._atoms, numbers, strict=True))
        rows = (dp[:, None, None] * self.mesh.pp + pp[None, :, None]) * self.mesh.tp
        return Piece(len(self.pieces), role, numbers, (dp, pp, tp), rows + tp[None, None, :])

    def groups(self, piece: Piece, axis: int, coordinates: Ints) -> list[Group]:
        """Return who is at ``coordinates`` along ``axis``, one for each of those of ``piece``."""
        numbers, places = (table[coordinates] for table in self._places[axis])
        groups = []
        for number in np.unique(numbers).tolist():
            own = np.flatnonzero(numbers == number)
            groups.append(Group(self._beside(piece, axis, number), own, places[own]))
        return groups

    def along(self, piece: Piece, axis: int) -> list[Piece]:
        """Return the pieces that differ from ``piece`` along ``axis`` only, itself included."""
        return [self._beside(piece, axis, number) for number in range(len(self._atoms[axis]))]

    def _beside(self, piece: Piece, axis: int, number: int) -> Piece:
        """Return the piece that has atom ``number`` along ``axis``, and else those of ``piece``."""
        dp, pp, tp = (number if i == axis else own for i, own in enumerate(piece.atoms))
        return self._at[dp, pp, tp]


def atoms_of(roles: Iterable[Role], mesh: Mesh, axis: Axis) -> list[Ints]:
    """Return the coordinates along ``axis`` in sets, none of which a role has in part."""
    labels = np.zeros(mesh.size(axis), np.intp)
    for span in {role.span(axis) for role in roles}:
        is_in = np.zeros_like(labels)
        is_in[np.asarray(span, np.intp)] = 1
        labels = np.unique(2 * labels + is_in, return_inverse=True)[1]
    _, first = np.unique(labels, return_index=True)
    return [np.flatnonzero(labels == labels[start]) for start in np.sort(first)]


def _places(atoms: list[Ints], size: int) -> tuple[Ints, Ints]:
    """Return of each coordinate its atom's number, and its place in it."""
    numbers, places = np.empty(size, np.intp), np.empty(size, np.intp)
    for number, atom in enumerate(atoms):
        numbers[atom] = number
        places[atom] = np.arange(len(atom))
    return numbers, places


def last_of_blocks(values: list[Floats], places: list[Ints], axis: int, block: int) -> list[Floats]:
    """Return the greatest of ``values`` over ``axis``, or over each rank's block of so many coordinates.

    The values are those of pieces that fill the axis together, each at its ``places``.
    """
    if not block or (all(each.shape[axis] == 1 for each in values) and len(values) == 1):
        last = values[0].max(axis=axis, keepdims=True)
        for each in values[1:]:
            last = np.maximum(last, each.max(axis=axis, keepdims=True))
        return [last] * len(values)
    shapes = [np.moveaxis(each, axis, -1).shape[:-1] for each in values]
    line = np.empty((*np.broadcast_shapes(*shapes), sum(map(len, places))))
    for each, where in zip(values, places, strict=True):
        line[..., where] = np.moveaxis(each, axis, -1)
    blocks = line.reshape(*line.shape[:-1], -1, block)
    lasts = np.repeat(blocks.max(axis=-1), block, axis=-1)
    return [folded(np.moveaxis(lasts[..., where], -1, axis)) for where in places]


def folded(values: NDArray[Numbers]) -> NDArray[Numbers]:
    """Return ``values`` with a 1 for each axis along which they do not differ."""
    for axis in range(values.ndim):
        if values.shape[axis] > 1:
            first = values[(slice(None),) * axis + (slice(0, 1),)]
            if np.array_equal(np.broadcast_to(first, values.shape), values):
                values = first
    return values
