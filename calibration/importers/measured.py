"""One measurement of a benchmark of messages, whichever benchmark it was."""

from dataclasses import dataclass
from enum import StrEnum


class Operation(StrEnum):
    """What was measured."""

    ALLREDUCE = "all_reduce"
    ALLGATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALLTOALL = "alltoall"
    BROADCAST = "broadcast"
    REDUCE = "reduce"
    GATHER = "gather"
    SCATTER = "scatter"
    SENDRECV = "sendrecv"
    HYPERCUBE = "hypercube"


@dataclass(frozen=True, slots=True)
class Measured:
    """The time of ``operation`` on ``nbytes`` over ``ranks`` ranks of ``nodes`` nodes.

    ``algbw`` is ``nbytes`` over the time, and ``busbw`` what that asks of each link, both in bytes
    a second and as published. ``place`` is the file and the line.
    """

    operation: Operation
    ranks: int
    nodes: int
    nbytes: int
    time_s: float
    algbw_bytes_per_s: float
    busbw_bytes_per_s: float
    in_place_time_s: float
    place: str


def bus_factor(operation: Operation, ranks: int) -> float:
    """Return ``busbw / algbw``, by which nccl-tests make one number of link bandwidth of all operations.

    Source: NVIDIA, nccl-tests, doc/PERFORMANCE.md (2023).
    """
    match operation:
        case Operation.ALLREDUCE:
            return 2.0 * (ranks - 1) / ranks
        case Operation.BROADCAST | Operation.REDUCE | Operation.SENDRECV:
            return 1.0
        case _:
            return (ranks - 1) / ranks
