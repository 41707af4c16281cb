"""A ring all-reduce, or round trips to a server, in SimGrid.

``python3 simgrid_ring.py RANKS NBYTES ALPHA_S BYTES_PER_S ring|server``.

``simulator.py`` finds a Python that has SimGrid's bindings, and runs this file with it; it prints
one JSON object. The bindings of SimGrid 3.32 are meant (Debian's python3-simgrid); 4 renamed them.
Hosts around one switch, each on a full-duplex cable of half the latency, and SimGrid told to
drop what the alpha-beta model lacks: its TCP model, cross-traffic of acknowledgements, and the
factors 0.97 and 13.01 by which it scales bandwidth and latency. It runs on one core: its actors
are threads of which one runs at a time, and that way they hand over at twice the speed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

EXACT = (
    "network/model:CM02",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/weight-S:0",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
)

ROUNDS = 10
"""How many round trips there are to a server."""


def ring(ranks: int, nbytes: int, alpha_s: float, bytes_per_s: float) -> tuple[float, float]:
    """Return the seconds it took to simulate, and the seconds simulated."""
    from simgrid import Mailbox  # type: ignore[import-not-found]  # noqa: PLC0415  # where it is installed

    def body(rank: int) -> None:
        right, own = Mailbox.by_name(str((rank + 1) % ranks)), Mailbox.by_name(str(rank))
        for _ in range(2 * (ranks - 1)):
            sent = right.put_async(0, nbytes // ranks)
            own.get()
            sent.wait()

    return _run(ranks, alpha_s, bytes_per_s, body)


def server(ranks: int, nbytes: int, alpha_s: float, bytes_per_s: float) -> tuple[float, float]:
    """Return what :func:`ring` does of :data:`ROUNDS` round trips of all others to rank 0, all at once."""
    from simgrid import Mailbox  # noqa: PLC0415  # where it is installed

    def body(rank: int) -> None:
        own = Mailbox.by_name(str(rank))
        others = [Mailbox.by_name(str(other)) for other in range(1, ranks)]
        for _ in range(ROUNDS):
            if rank == 0:
                got = [own.get_async() for _ in others]  # and where each puts what it gets
                for comm, _place in got:
                    comm.wait()
                for sent in [other.put_async(0, nbytes) for other in others]:
                    sent.wait()
            else:
                Mailbox.by_name("0").put(0, nbytes)
                own.get()

    return _run(ranks, alpha_s, bytes_per_s, body)


def _run(
    ranks: int, alpha_s: float, bytes_per_s: float, body: Callable[[int], None]
) -> tuple[float, float]:
    from simgrid import Actor, Engine, LinkInRoute, NetZone  # noqa: PLC0415  # where it is installed

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    engine = Engine(["simgrid_ring", "--log=root.thresh:error"])
    for setting in EXACT:
        Engine.set_config(setting)
    start_s = perf_counter()
    zone = NetZone.create_star_zone("star")
    hosts = []
    for rank in range(ranks):
        host = zone.create_host(f"host{rank}", 1e9)
        cable = zone.create_split_duplex_link(f"cable{rank}", bytes_per_s)
        cable.set_latency(alpha_s / 2).seal()
        up = [LinkInRoute(cable, LinkInRoute.Direction.UP)]
        zone.add_route(host.netpoint, None, None, None, up, True)  # both ways
        hosts.append(host)
    zone.seal()
    for rank, host in enumerate(hosts):
        Actor.create(str(rank), host, body, rank)
    engine.run()
    return perf_counter() - start_s, Engine.clock


@dataclass(frozen=True, slots=True)
class SimGrid:
    """The Python that has SimGrid's bindings, and their version."""

    python: str
    version: str

    def run(
        self, ranks: int, nbytes: int, alpha_s: float, bytes_per_s: float, pattern: str = "ring"
    ) -> tuple[float, float]:
        """Return what ``pattern`` does, from a process of its own: an engine runs only once."""
        command = [self.python, __file__, *map(str, (ranks, nbytes, alpha_s, bytes_per_s)), pattern]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        record = json.loads(done.stdout)
        return record["took_s"], record["answer_s"]


def find_simgrid() -> SimGrid | None:
    """Return this Python or the system's, if it has the bindings."""
    code = "import simgrid; simgrid.NetZone.create_star_zone; print(simgrid.simgrid_version)"
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return SimGrid(python, done.stdout.strip())
    return None


if __name__ == "__main__":
    run = {"ring": ring, "server": server}[sys.argv[5]]
    took_s, simulated_s = run(*map(int, sys.argv[1:3]), *map(float, sys.argv[3:5]))
    print(json.dumps({"took_s": took_s, "answer_s": simulated_s}))
