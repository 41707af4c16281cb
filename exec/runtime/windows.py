"""Windows: the flat buffers of a program that lie in memory which several ranks share."""

from collections.abc import Iterable, Iterator

from exec.nn.backend import DTYPES, Array
from exec.program.ops import Accumulate, Op, Repeat
from exec.program.program import Program, Role
from exec.transport.protocol import Transport


def share_windows(
    program: Program, role: Role, dtype: str, transport: Transport
) -> dict[str, list[Array]]:
    """Return the shared buffers of ``program``, of every rank; all must call it together."""
    if not program.is_shared:
        return {}
    sizes = {"param": _size(role, "param") if transport.rank == 0 else 0}
    sizes |= {name: _size(role, name) for name in sorted(set(_windows(role.ops)))}
    return {name: transport.share(size, DTYPES[dtype]) for name, size in sizes.items()}


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
