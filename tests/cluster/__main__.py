"""A cluster on one machine: ``python -m tests.cluster up``, ``run -- COMMAND``, ``down``."""

import json
import sys
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.workload import positive
from tests.cluster import rig
from tests.cluster.spec import BURST_NBYTES, CALM_BITS_PER_S, Spec, parse_rate, parse_slow_links

app = make_app("python -m tests.cluster", "Make hosts on one machine, and run MPI jobs on them.")
Flag = Annotated[bool, Parameter(negative=())]


@app.command
def up(
    *,
    hosts: int = 8,
    rate: str = "100mbit",
    ranks_per_host: int = 1,
    slow_link: tuple[str, ...] = (),
    racks: int = 1,
    uplink: str | None = None,
    burst: int = BURST_NBYTES,
    name: str = "rig",
) -> None:
    """Make a rig.

    Parameters
    ----------
    hosts
        How many hosts.
    rate
        The rate of every host's link, in either direction, as 100mbit.
    ranks_per_host
        Ranks on each host; they share its link, and talk to each other through memory.
    slow_link
        A host whose link has another rate, as 3=20mbit; may be repeated.
    racks
        1, or 2 with half of the hosts each.
    uplink
        The rate of what joins two racks.
    burst
        Bytes that a link may send at once after a pause.
    name
        What to call it; several rigs may be up.
    """
    between = None if uplink is None else parse_rate("uplink", uplink)
    slow = parse_slow_links(slow_link)
    spec = Spec(hosts, parse_rate("rate", rate), ranks_per_host, slow, racks, between, burst)
    rig.up(spec, name)
    console().print(f"rig {name} is up: {hosts} hosts, node0 to node{hosts - 1}")
    if spec.total_bits_per_s > CALM_BITS_PER_S:
        console().print(
            f"note: the rates add up to {spec.total_bits_per_s / 1e6:.0f} Mbit/s; above "
            f"{CALM_BITS_PER_S / 1e6:.0f} the processor, not the links, may be what is measured"
        )


@app.command
def run(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    hosts: int | None = None,
    ranks: int | None = None,
    timeout_s: float | None = None,
    name: str = "rig",
) -> None:
    """Run a command on the hosts with mpiexec; python means the Python that runs this.

    Parameters
    ----------
    command
        What to run, after --.
    hosts
        Only on the first so many hosts.
    ranks
        Start so many ranks; unless given, as many as the hosts are for.
    timeout_s
        End it after so many seconds, with status 124.
    name
        The rig.
    """
    if timeout_s is not None:
        positive("timeout-s", timeout_s)
    try:
        done = rig.run(name, command, hosts=hosts, ranks=ranks, timeout_s=timeout_s)
    except rig.subprocess.TimeoutExpired:
        Console(stderr=True, highlight=False).print(f"ended after {timeout_s:g} s")
        sys.exit(124)
    sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@app.command
def status(*, name: str | None = None) -> None:
    """Print the rigs that are up and what has passed their links, one JSON record each.

    Parameters
    ----------
    name
        Only this rig.
    """
    rig.check_able()
    for each in rig.rigs() if name is None else [name]:
        print(json.dumps(rig.status(each)))


@app.command
def down(*, name: str | None = None, all: Flag = False) -> None:
    """End what runs on a rig and remove it.

    Parameters
    ----------
    name
        The rig; rig unless given.
    all
        All rigs, those of killed processes too.
    """
    if all and name is not None:
        raise UsageError("name and all must not both be given")
    rig.check_able()
    for each in rig.rigs() if all else [name or "rig"]:
        was_there = rig.down(each)
        console().print(f"rig {each} is down" if was_there else f"rig {each} was not up")


if __name__ == "__main__":
    rig.end_in_order()
    run_app(app)
