"""One measurement of a benchmark of messages, whichever benchmark it was."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from exec.errors import UsageError


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
    BARRIER = "barrier"
    PINGPONG = "pingpong"
    PINGPING = "pingping"
    EXCHANGE = "exchange"
    STREAM = "stream"
    DUPLEX_STREAM = "duplex_stream"


@dataclass(frozen=True, slots=True)
class Measured:
    """The time of ``operation`` on ``nbytes`` over ``ranks`` ranks of ``nodes`` nodes.

    ``nbytes`` are those of the whole buffer: what all shares of an all-gather, a reduce-scatter, a
    gather, a scatter or an all-to-all add up to on one rank. A ping-pong is one way, a ping-ping both
    ways at once. In a sendrecv each rank sends and receives at once, in an exchange to and from two neighbours; a stream is one
    of many messages one behind the other, a duplex stream in both directions.

    ``algbw`` is ``nbytes`` over the time, and ``busbw`` what that asks of each link, both in bytes
    a second and as nccl-tests publish them. ``least_s`` and ``most_s`` are those of the ranks'
    mean times, where known. ``place`` is the file and the line.
    """

    operation: Operation
    ranks: int
    nodes: int
    nbytes: int
    time_s: float
    place: str
    algbw_bytes_per_s: float | None = None
    busbw_bytes_per_s: float | None = None
    in_place_time_s: float | None = None
    least_s: float | None = None
    most_s: float | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """On how many ranks and nodes a benchmark ran, as far as its user says."""

    ranks: int | None = None
    nodes: int | None = None
    ranks_per_node: int | None = None

    def __post_init__(self) -> None:
        for name in ("ranks", "nodes", "ranks_per_node"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1, got {value}")

    def nodes_of(self, ranks: int) -> int | None:
        """Return over how many nodes ``ranks`` ranks are, or None if nobody says."""
        if self.nodes is not None:
            return self.nodes
        return None if self.ranks_per_node is None else -(-ranks // self.ranks_per_node)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was in a file: what was read, and how many values of what were passed over."""

    measured: tuple[Measured, ...]
    passed_over: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """Say how many values of what there were.

        >>> Reading((), {"Gatherv": 24}).summary()
        'read nothing; passed over 24 of Gatherv'
        """
        read = _counts(Counter(f"{each.operation}" for each in self.measured)) or "nothing"
        passed = f"; passed over {_counts(self.passed_over)}" if self.passed_over else ""
        return f"read {read}{passed}"


def joined(readings: Sequence[Reading]) -> Reading:
    """Return ``readings`` as one."""
    passed: Counter[str] = Counter()
    for reading in readings:
        passed.update(reading.passed_over)
    return Reading(tuple(each for reading in readings for each in reading.measured), dict(passed))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in counts.items())


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
