"""Traffic: the bytes that a collective makes a rank send, whoever does it and however."""

from exec.program.ops import Collective, CollectiveKind, Op, Repeat, Send
from exec.program.program import Program, Role


def collective_nbytes(kind: CollectiveKind, nbytes: int, ranks: int, is_root: bool) -> int:
    """Return the least that one of ``ranks`` ranks must send in a collective, in bytes, rounded up.

    p ranks share a buffer of n bytes; for allgather and reduce_scatter n is the whole of it.

        allreduce                  2 (p - 1) / p n
        allgather, reduce_scatter    (p - 1) / p n
        broadcast                  n by the root, (p - 2) / (p - 1) n by each of the others
        reduce                     0 by the root, n by each of the others
        barrier                    0

    Where the shares differ, these are means over the ranks. In a broadcast all but the root must
    receive n, so p - 1 messages are sent: the root must send one, and who sends the others is the
    algorithm's choice; here the others share them. A library may send more.

    Source: E. Chan, M. Heimlich, A. Purkayastha and R. van de Geijn, "Collective communication:
    theory, practice, and experience", Concurrency Comput. Pract. Exper. 19 (2007) 1749-1783,
    section 3.

    >>> collective_nbytes(CollectiveKind.ALLREDUCE, 1000, 4, is_root=False)
    1500
    """
    if ranks == 1:
        return 0
    match kind:
        case CollectiveKind.ALLREDUCE:
            return -(-2 * (ranks - 1) * nbytes // ranks)
        case CollectiveKind.ALLGATHER | CollectiveKind.REDUCE_SCATTER:
            return -(-(ranks - 1) * nbytes // ranks)
        case CollectiveKind.BROADCAST:
            return nbytes if is_root else -(-(ranks - 2) * nbytes // (ranks - 1))
        case CollectiveKind.REDUCE:
            return 0 if is_root else nbytes
        case CollectiveKind.BARRIER:
            return 0


def program_nbytes(program: Program) -> float:
    """Return the bytes that all ranks send when ``program`` is done once, its tickets and all.

    Where chunks differ by an element, it is their mean.
    """
    total = 0.0
    for role in program.roles:
        turns = program.tickets if role.until else role.times * role.num_ranks
        sent = sum(_sent(op, role, program) for op in role.ops)
        total += turns * sent
    return total


def _sent(op: Op, role: Role, program: Program) -> float:
    match op:
        case Send(part=part):
            share = 1.0 if part.chunks is None else part.chunks.width / part.chunks.num_chunks
            return part.size * share * program.itemsize
        case Repeat(count, body):
            return count * sum(_sent(inner, role, program) for inner in body)
        case Collective(kind=kind, part=part, axis=axis, root=root):
            is_root = role.span(axis) == range(root, root + 1)
            ranks = op.block or program.mesh.size(axis)
            return collective_nbytes(kind, part.size * program.itemsize, ranks, is_root)
        case _:
            return 0.0
