"""The order in which servers took their messages, read back from an earlier run."""

import json
from pathlib import Path

from exec.errors import UsageError


def read_arrivals(path: Path, servers: int, ranks: int) -> tuple[tuple[int, ...], ...]:
    """Return, for each server, the senders of its messages in order.

    Raises:
        UsageError: no such file, damaged, or of a run with other ranks or servers.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        arrivals = tuple(tuple(map(int, each)) for each in found["arrivals"])
        same = found["ranks"] == ranks and len(arrivals) == servers
        senders = {sender for each in arrivals for sender in each}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"replay must be a file that --arrivals wrote, got {path}: {error}") from error  # fmt: skip
    if not same or not senders <= set(range(servers, ranks)):
        raise UsageError(
            f"replay must be of a run with {ranks} ranks and {servers} of them serving, got {path} "
            f"of {found['ranks']} ranks and {len(arrivals)} servers"
        )
    return arrivals
