"""The order in which servers took their messages, read back from an earlier run."""

import json
from collections.abc import Sequence
from operator import index
from pathlib import Path

from exec.errors import UsageError


def read_arrivals(path: Path, servers: int, ranks: int) -> tuple[tuple[int, ...], ...]:
    """Return, for each server, the senders of its messages in order.

    Raises:
        UsageError: no such file, damaged, or of a run with other ranks or servers.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        arrivals = tuple(tuple(map(index, each)) for each in found["arrivals"])
        same = found["ranks"] == ranks and len(arrivals) == servers
        senders = {sender for each in arrivals for sender in each}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"replay must be a file that --arrivals wrote, got {path}: {error}") from error  # fmt: skip
    if same and (strangers := senders - set(range(servers, ranks))):
        raise UsageError(f"replay must name workers, {servers} .. {ranks - 1}, got rank {min(strangers)} in {path}")  # fmt: skip
    if not same:
        raise UsageError(
            f"replay must be of a run with {ranks} ranks and {servers} of them serving, got {path} "
            f"of {found['ranks']} ranks and {len(arrivals)} servers"
        )
    return arrivals


def check_arrivals(
    arrivals: Sequence[Sequence[int]], workers: range, tickets: Sequence[int], epochs: int
) -> None:
    """Raise :class:`UsageError` unless ``workers`` can come in the order of ``arrivals``.

    They take so many ``tickets`` of each program of an epoch. A server that waited for another
    worker than those that can come would wait for ever.
    """
    turns = sum(tickets)
    lengths = {len(each) for each in arrivals}
    if lengths != {epochs * turns}:
        raise UsageError(
            f"replay must be of a run with {epochs} x {turns} messages to each server, got "
            f"{', '.join(map(str, sorted(lengths)))}; use the epochs, batch and data of that run"
        )
    for epoch in range(epochs):
        taken = [each[epoch * turns : (epoch + 1) * turns] for each in arrivals]
        if not _can_be(taken, workers, tickets):
            raise UsageError(
                f"replay must be an order in which {len(workers)} workers can come, but in epoch "
                f"{epoch + 1} one would never be answered; use the batch and data of that run"
            )


def _can_be(arrivals: Sequence[Sequence[int]], workers: range, tickets: Sequence[int]) -> bool:
    """Re-enact an epoch; say whether servers and workers all come to its end."""
    grants = [
        ticket if ticket < count else -1
        for count in tickets
        for ticket in range(len(workers), len(workers) + count)
    ]
    servers = range(len(arrivals))
    done, segment = [0] * len(arrivals), dict.fromkeys(workers, 0)
    granted: dict[int, int] = {}
    unanswered: dict[int, set[int]] = {}

    def go_on(worker: int, ticket: int) -> None:
        unanswered[worker] = set()
        while segment[worker] < len(tickets):
            if 0 <= ticket < tickets[segment[worker]]:
                unanswered[worker] = set(servers)
                return
            segment[worker] += 1
            ticket = worker - workers.start

    def take(server: int) -> bool:
        if done[server] == len(arrivals[server]):
            return False
        worker = arrivals[server][done[server]]
        if server not in unanswered[worker]:
            return False
        unanswered[worker].remove(server)
        if server == servers[-1]:
            granted[worker] = grants[done[server]]
        done[server] += 1
        if not unanswered[worker]:
            go_on(worker, granted[worker])
        return True

    for place, worker in enumerate(workers):
        go_on(worker, place)
    while any(take(server) for server in servers):
        pass
    return done == [len(each) for each in arrivals] and not any(unanswered.values())
