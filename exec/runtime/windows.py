"""Windows: the flat buffers of a program that lie in memory which several ranks share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from numpy.typing import DTypeLike

from exec.nn.backend import DTYPES
from exec.program.mesh import Axis
from exec.program.ops import Accumulate, Op, Repeat
from exec.program.program import Program, Role
from exec.runtime.buffers import Numbers


class Sharing(Protocol):
    """A group of ranks with memory in common: a transport of the host's, or of devices."""

    def share(self, size: int, dtype: DTypeLike) -> list[Any]:
        """Return every rank's array of ``size`` elements."""
        ...


def share_windows(
    program: Program, role: Role, dtype: str, rank: int, group: Callable[[int], Sharing]
) -> dict[str, dict[int, Numbers]]:
    """Return the shared buffers of ``program``, by rank, of the replicas that share with ``rank``.

    All ranks must call it together; ``group`` is asked for that of the ranks of one color.
    """
    if not program.is_shared:
        return {}
    replicas = program.mesh.group(rank, Axis.DP, program.sharers)
    sharing = group(replicas[0])
    sizes = {"param": _size(role, "param") if rank == replicas[0] else 0}
    sizes |= {name: _size(role, name) for name in sorted(set(_windows(role.ops)))}
    shared = {name: sharing.share(size, DTYPES[dtype]) for name, size in sizes.items()}
    return {name: dict(zip(replicas, each, strict=True)) for name, each in shared.items()}


def _size(role: Role, name: str) -> int:
    part = role.held(name)
    return 0 if part is None else part.size


def _windows(ops: Iterable[Op]) -> Iterator[str]:
    """Yield the buffers that other ranks read."""
    for op in ops:
        if isinstance(op, Repeat):
            yield from _windows(op.body)
        elif isinstance(op, Accumulate) and op.peer is not None:
            yield op.source.buffer
