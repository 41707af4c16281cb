"""Patterns of messages, timed: ``run -- python -m tests.cluster.messages PATTERN REPEATS NBYTES...``.

Rank 0 prints one JSON object: for each size the times, in seconds, of the slowest rank.
"""

import json
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

from exec.transport.mpi import connect
from exec.transport.protocol import Transport

TRAIN = 8


def ping(wire: Transport, nbytes: int) -> None:
    """Send from rank 0 to rank 1, and back: twice the time of a message."""
    data = np.zeros(nbytes, np.uint8)
    if wire.rank == 0:
        wire.send(data, 1, 1).Wait()
        wire.receive(data, 1, 1).Wait()
    elif wire.rank == 1:
        wire.receive(data, 0, 1).Wait()
        wire.send(data, 0, 1).Wait()


def exchange(wire: Transport, nbytes: int) -> None:
    """Pass a message to the next rank while one comes from the rank before."""
    out, into = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    received = wire.receive(into, (wire.rank - 1) % wire.size, 1)
    sent = wire.send(out, (wire.rank + 1) % wire.size, 1)
    received.Wait()
    sent.Wait()


def train(wire: Transport, nbytes: int) -> None:
    """Do :data:`TRAIN` exchanges in a row: a pause before each would let a link save up its burst."""
    for _ in range(TRAIN):
        exchange(wire, nbytes)


def ring(wire: Transport, nbytes: int) -> None:
    """Do the messages of a ring all-reduce of ``nbytes``, without its sums."""
    for _ in range(2 * (wire.size - 1)):
        exchange(wire, nbytes // wire.size)


def across(wire: Transport, nbytes: int) -> None:
    """Send from each rank of the first half to its like of the second, all at once."""
    half, data, reply = wire.size // 2, np.zeros(nbytes, np.uint8), np.zeros(1, np.uint8)
    if wire.rank < half:
        wire.send(data, wire.rank + half, 1).Wait()
        wire.receive(reply, wire.rank + half, 1).Wait()
    else:
        wire.receive(data, wire.rank - half, 1).Wait()
        wire.send(reply, wire.rank - half, 1).Wait()


def swap(wire: Transport, nbytes: int) -> None:
    """Exchange between each rank of the first half and its like of the second, all at once."""
    out, into = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    other = (wire.rank + wire.size // 2) % wire.size
    received = wire.receive(into, other, 1)
    sent = wire.send(out, other, 1)
    received.Wait()
    sent.Wait()


PATTERNS: dict[str, Callable[[Transport, int], None]] = {
    "ping": ping,
    "exchange": exchange,
    "train": train,
    "ring": ring,
    "across": across,
    "swap": swap,
}


def main(pattern: str, repeats: int, sizes: list[int]) -> None:
    """Time ``pattern`` so often at each of the ``sizes``, after one time that does not count."""
    wire = connect()
    times_s: dict[int, list[float]] = {nbytes: [] for nbytes in sizes}
    for nbytes in sizes:
        for _ in range(repeats + 1):
            wire.gather_objects(None)
            start_s = perf_counter()
            PATTERNS[pattern](wire, nbytes)
            times_s[nbytes].append(max(wire.gather_objects(perf_counter() - start_s)))
    if wire.rank == 0:
        print(json.dumps({nbytes: each[1:] for nbytes, each in times_s.items()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), list(map(int, sys.argv[3:])))
