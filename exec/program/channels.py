"""Channels: which rank talks to which, and whether messages between two ranks need their tags.

Where messages of two ranks match in the order in which they are sent and received, as NCCL's do, a
program is right only if both ranks name them in the same order.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from exec.errors import UsageError
from exec.program.ops import Op, Receive, Send
from exec.program.peers import AnyRank, Rank, Sender
from exec.program.program import Program

Pair = tuple[int, int]


def talking_pairs(programs: Iterable[Program]) -> list[Pair]:
    """Return, sorted, every pair of ranks of which the first sends to the second.

    Answers to whoever sent a message are left out: only the run can tell.
    """
    return sorted(
        {
            (rank, op.peer.rank)
            for program in programs
            for rank in range(program.mesh.world_size)
            for op in program.ops(rank)
            if isinstance(op, Send) and isinstance(op.peer, Rank)
        }
    )


def check_order(program: Program) -> None:
    """Raise unless messages between two ranks can match in order, without tags.

    Raises:
        UsageError: two messages of a pair are received in another order than they are sent, or
            only the run can tell who sends or receives. It names the ops.
    """
    sent: dict[Pair, list[Send]] = defaultdict(list)
    received: dict[Pair, list[Receive]] = defaultdict(list)
    for rank, op in _turns(program):
        match op:
            case Send(peer=Rank(dest)):
                sent[rank, dest].append(op)
            case Receive(peer=Rank(source)):
                received[source, rank].append(op)
            case Send(id, _, Sender(other)):
                raise UsageError(
                    f"NCCL must know who receives, but rank {rank} sends {id} to the sender of "
                    f"{other}; use --transport mpi, threads or tcp, which stage messages through the host"
                )
            case Receive(id, _, AnyRank()):
                raise UsageError(
                    f"NCCL must know who sends, but rank {rank} receives {id} from any rank; use "
                    f"--transport mpi, which stages messages through the host"
                )
            case _:
                pass
    for source, dest in sorted(sent.keys() | received.keys()):
        pairs = zip_longest(sent[source, dest], received[source, dest])
        for out, into in pairs:
            if out is None or into is None or out.tag != into.tag:
                raise UsageError(
                    f"NCCL matches messages in order, but rank {source} sends {_name(out)} where "
                    f"rank {dest} receives {_name(into)}; use --transport mpi, threads or tcp, which have tags"
                )


def _turns(program: Program) -> Iterator[tuple[int, Op]]:
    """Yield what each rank does, all its turns."""
    for rank in range(program.mesh.world_size):
        for _ in range(program.role_of(rank).times):
            for op in program.ops(rank):
                yield rank, op


def _name(op: Send | Receive | None) -> str:
    return "nothing" if op is None else f"{op.id} (tag {op.tag})"
