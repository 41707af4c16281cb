"""Windows: the flat buffers of a program that lie in memory which several ranks share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from exec.nn.backend import DTYPES
from exec.program.ops import Accumulate, Op, Repeat
from exec.program.program import Program, Role
from exec.runtime.buffers import Numbers


def share_windows(
    program: Program, role: Role, dtype: str, rank: int, share: Callable[[int, Any], list[Numbers]]
) -> dict[str, list[Numbers]]:
    """Return the shared buffers of ``program``, of every rank; all must call it together."""
    if not program.is_shared:
        return {}
    sizes = {"param": _size(role, "param") if rank == 0 else 0}
    sizes |= {name: _size(role, name) for name in sorted(set(_windows(role.ops)))}
    return {name: share(size, DTYPES[dtype]) for name, size in sizes.items()}


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
