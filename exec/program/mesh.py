"""The mesh: how ranks are arranged into replicas, stages and shards.

Ranks are laid out with ``tp`` innermost, so that the ranks that talk most are neighbours:
``rank = (dp_rank * pp + stage) * tp + tp_rank``.
"""

from dataclasses import dataclass
from enum import StrEnum


class Axis(StrEnum):
    """A direction of the mesh."""

    DP = "dp"
    PP = "pp"
    TP = "tp"


@dataclass(frozen=True, slots=True)
class Mesh:
    """``dp`` replicas of ``pp`` stages of ``tp`` shards.

    >>> Mesh(dp=2, pp=2, tp=1).coordinates(3)
    (1, 1, 0)
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for axis in Axis:
            if self.size(axis) < 1:
                raise ValueError(f"{axis} must be at least 1, got {self.size(axis)}")

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.dp * self.pp * self.tp

    def size(self, axis: Axis) -> int:
        """Return the number of ranks along ``axis``."""
        return self.dp if axis is Axis.DP else self.pp if axis is Axis.PP else self.tp

    def stride(self, axis: Axis) -> int:
        """Return the distance in ranks between neighbours along ``axis``."""
        return self.pp * self.tp if axis is Axis.DP else self.tp if axis is Axis.PP else 1

    def coordinates(self, rank: int) -> tuple[int, int, int]:
        """Return ``(dp_rank, stage, tp_rank)`` of ``rank``."""
        return rank // (self.pp * self.tp), rank // self.tp % self.pp, rank % self.tp

    def coordinate(self, rank: int, axis: Axis) -> int:
        """Return the coordinate of ``rank`` along ``axis``."""
        return rank // self.stride(axis) % self.size(axis)

    def moved(self, rank: int, axis: Axis, coordinate: int) -> int:
        """Return the rank that differs from ``rank`` only by its ``coordinate`` along ``axis``."""
        return rank + (coordinate - self.coordinate(rank, axis)) * self.stride(axis)

    def group(self, rank: int, axis: Axis, block: int = 0) -> tuple[int, ...]:
        """Return the ranks that differ from ``rank`` along ``axis`` only, itself included.

        With ``block`` they are those of the same block of so many coordinates.

        >>> Mesh(dp=6).group(3, Axis.DP, block=2)
        (2, 3)
        """
        size = block or self.size(axis)
        start = self.coordinate(rank, axis) // size * size
        return tuple(self.moved(rank, axis, start + i) for i in range(size))

    def __str__(self) -> str:
        return f"{self.dp}x{self.pp}x{self.tp}"
