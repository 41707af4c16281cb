"""A cluster on one machine: hosts are network namespaces, joined by links of a given rate.

Each host has its own interface and addresses, host name and /etc/hosts. A bridge in a namespace
of its own is the switch; both ends of every link are shaped (``tc tbf``), so that either direction
has the rate. All names begin with ``stepcast-``; the machine's own network is never touched.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from exec.errors import UsageError
from exec.launch import find_mpiexec
from tests.cluster.namespaces import (
    PREFIX,
    RigError,
    ask,
    check_able,
    delete,
    kill_all,
    namespaces,
    queues,
)
from tests.cluster.spec import MTU, Spec, read_spec

MPI_ENVIRONMENT = {
    # Not UCX: it finds shared memory between namespaces, and over TCP it often does the two
    # directions of a large exchange one after the other.
    "MPIR_CVAR_CH4_NETMOD": "ofi",
    "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": "eth0",
    # Ranks that wait give their core to others, asleep for some 50 us at a time.
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "10",
    "OMP_NUM_THREADS": "1",
}
_STATE = Path("/run/stepcast")
_QUEUE_NBYTES = 1 << 24  # what a queue holds: nothing is ever dropped
_SWITCH_ADDRESS = "10.77.0.254"
_LAUNCHER = """#!/bin/sh
# As ssh: [-x] HOST COMMAND. mpiexec starts its proxy on a host with it.
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1
shift
exec ip netns exec "{prefix}$host" unshare --uts --mount sh -c \\
    'hostname "$0" && mount --bind "{hosts}" /etc/hosts && exec sh -c "$1"' "$host" "$*"
"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed one end of a link: ``bytes`` with their headers."""

    link: str
    sent_nbytes: int
    received_nbytes: int
    dropped: int


def up(spec: Spec, name: str) -> None:
    """Make the rig ``name``; if it cannot be made whole, nothing of it is left.

    Raises:
        RigError: it is up already, or the machine cannot have one; the message says what it lacks.
    """
    check_able()
    folder = _folder(name)
    if folder.exists() or namespaces(_prefix(name)):
        raise RigError(f"rig {name} is up already; take it down first (python -m tests.cluster down --name {name})")  # fmt: skip
    try:
        folder.mkdir(parents=True)
        _make(spec, name)
        hosts = "".join(f"{_address(host)} node{host}\n" for host in range(spec.hosts))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}", encoding="utf-8")
        launcher = folder / "launch"
        text = _LAUNCHER.format(prefix=_prefix(name), hosts=folder / "hosts")
        launcher.write_text(text, encoding="utf-8")
        launcher.chmod(0o755)
        (folder / "rig.json").write_text(json.dumps(spec.record()), encoding="utf-8")
    except BaseException:
        down(name)
        raise


def down(name: str) -> bool:
    """End what runs on the rig ``name`` and remove it; return whether there was anything."""
    check_able()
    found, folder = namespaces(_prefix(name)), _folder(name)
    delete(found)
    was_there = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return was_there or bool(found)


def rigs() -> list[str]:
    """Return the names of all rigs, damaged ones too."""
    names = {each.removeprefix(PREFIX).rpartition("-")[0] for each in namespaces(PREFIX)}
    return sorted(names | {each.name for each in _STATE.glob("*") if each.is_dir()})


def spec_of(name: str) -> Spec:
    """Return what the rig ``name`` is made of.

    Raises:
        RigError: it is not up.
    """
    try:
        return read_spec(json.loads((_folder(name) / "rig.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RigError(f"rig {name} is not up; make it first (python -m tests.cluster up)") from None  # fmt: skip


@contextmanager
def cluster(spec: Spec, name: str) -> Iterator[str]:
    """Yield the name of a rig that is up, and take it down."""
    up(spec, name)
    try:
        yield name
    finally:
        down(name)


def mpi_command(name: str, command: Sequence[str], hosts: int | None, ranks: int | None) -> list[str]:  # fmt: skip
    """Return what starts ``command`` on the first ``hosts`` of the rig, host after host.

    ``ranks`` are as many as the hosts have room for, unless fewer are given.

    Raises:
        UsageError: there are not so many hosts or ranks.
    """
    spec, mpiexec = spec_of(name), find_mpiexec()
    hosts = spec.hosts if hosts is None else hosts
    if not 1 <= hosts <= spec.hosts:
        raise UsageError(f"hosts must be 1 .. {spec.hosts}, those of rig {name}, got {hosts}")
    most = hosts * spec.ranks_per_host
    ranks = most if ranks is None else ranks
    if not 1 <= ranks <= most:
        raise UsageError(f"ranks must be 1 .. {most} on {hosts} hosts of rig {name}, got {ranks}")
    if mpiexec is None:
        raise RigError("the rig needs mpiexec; install the mpi extra (pip install 'stepcast[mpi]')")
    if not command:
        raise UsageError("run needs a command, such as run -- python -m exec.train")
    program = sys.executable if command[0] in ("python", "python3") else command[0]
    names = ",".join(f"node{host}" for host in range(hosts))
    return [
        "setpriv", "--pdeathsig", "TERM", "ip", "netns", "exec", _switch(name),
        mpiexec, "-launcher", "ssh", "-launcher-exec", str(_folder(name) / "launch"),
        "-localhost", _SWITCH_ADDRESS, "-hosts", names, "-ppn", str(spec.ranks_per_host),
        "-n", str(ranks), program, *command[1:],
    ]  # fmt: skip


def run(
    name: str, command: Sequence[str], *, hosts: int | None = None, ranks: int | None = None,
    is_captured: bool = False, timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run ``command`` on the rig ``name`` under mpiexec to its end, however that comes.

    Raises:
        RigError: the rig is not up, or runs something already.
        UsageError: it has not so many hosts or ranks.
        subprocess.TimeoutExpired: it took longer than ``timeout_s``.
    """
    check_able()
    started = mpi_command(name, command, hosts, ranks)
    pipe = subprocess.PIPE if is_captured else None
    with (_folder(name) / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RigError(f"rig {name} runs something already; wait, or make another with --name") from None  # fmt: skip
        everything = namespaces(_prefix(name))
        kill_all(everything)  # what a killed run has left
        process = subprocess.Popen(
            started, env=_environment(), stdout=pipe, stderr=pipe, text=True, close_fds=True
        )
        try:
            out, err = process.communicate(timeout=timeout_s)
        finally:
            if process.poll() is None:
                process.terminate()
            kill_all(everything)
            process.wait()
    return subprocess.CompletedProcess(started, process.returncode, out, err)


def traffic(name: str) -> list[Traffic]:
    """Return what has passed each host's link, and the uplink, since the rig is up."""
    spec, switch = spec_of(name), queues(_switch(name))
    pairs = [
        (f"node{host}", queues(_host(name, host))["eth0"], switch[f"port{host}"])
        for host in range(spec.hosts)
    ]
    if spec.racks == 2:
        pairs.append(("uplink", switch["up0"], switch["up1"]))
    return [
        Traffic(link, sent["bytes"], received["bytes"], sent["drops"] + received["drops"])
        for link, sent, received in pairs
    ]


def end_in_order() -> None:
    """Let what ends this process from outside be an exception, after which rigs are taken down."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def status(name: str) -> dict[str, object]:
    """Return the rig ``name`` and its traffic, as JSON can hold them."""
    return {"name": name, **spec_of(name).record(), "traffic": [asdict(each) for each in traffic(name)]}  # fmt: skip


def check_name(name: str) -> str:
    """Return ``name`` if a rig may have it."""
    if re.fullmatch(r"[a-z0-9]{1,20}", name) is None:
        raise UsageError(f"name must be 1 to 20 small letters and digits, got {name!r}")
    return name


def _make(spec: Spec, name: str) -> None:
    """Make namespaces, links and queues."""
    switch, hosts = _switch(name), range(spec.hosts)
    everything = [switch, *(_host(name, host) for host in hosts)]
    ask("network namespaces", ["ip", "-batch", "-"], [f"netns add {each}" for each in everything])
    in_switch = ["ip", "-netns", switch, "-batch", "-"]
    bridges = [line for rack in range(spec.racks) for line in (f"link add br{rack} type bridge", f"link set br{rack} up")]  # fmt: skip
    ask("bridges (CONFIG_BRIDGE)", in_switch, [*bridges, f"addr add {_SWITCH_ADDRESS}/24 dev br0", "link set lo up"])  # fmt: skip
    links = [
        line
        for host in hosts
        for line in (
            f"link add port{host} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {_host(name, host)}",
            f"link set port{host} master br{spec.rack_of(host)} up",
        )
    ]
    if spec.racks == 2:
        links += [f"link add up0 mtu {MTU} type veth peer name up1 mtu {MTU}", "link set up0 master br0 up", "link set up1 master br1 up"]  # fmt: skip
    ask("veth pairs (CONFIG_VETH)", in_switch, links)
    shaped = [_shaping(f"port{host}", spec.rate_of(host), spec) for host in hosts]
    if spec.uplink_bits_per_s is not None:
        shaped += [_shaping(end, spec.uplink_bits_per_s, spec) for end in ("up0", "up1")]
    _shape(switch, shaped)
    for host in hosts:
        own = _host(name, host)
        lines = ["link set lo up", f"addr add {_address(host)}/24 dev eth0", "link set eth0 addrgenmode none up"]  # fmt: skip
        ask("veth pairs (CONFIG_VETH)", ["ip", "-netns", own, "-batch", "-"], lines)
        _shape(own, [_shaping("eth0", spec.rate_of(host), spec)])
        ask("TCP settings of a namespace", ["ip", "netns", "exec", own, "sh", "-c", _TCP_SETTINGS])


# A connection that paused goes on as it was, and a new one knows nothing of those before it. What
# it has under way fills a link some ten times over and no more, so that those which share a link do
# not wait for each other's queues.
_WINDOW_NBYTES = 1 << 17
_TCP_SETTINGS = " && ".join((
    "cd /proc/sys/net/ipv4",
    "echo 0 > tcp_slow_start_after_idle",
    "echo 1 > tcp_no_metrics_save",
    f"echo 4096 65536 {_WINDOW_NBYTES} > tcp_rmem",
    f"echo 4096 65536 {_WINDOW_NBYTES} > tcp_wmem",
))  # fmt: skip


def _shape(namespace: str, lines: Sequence[str]) -> None:
    ask("the token bucket filter (CONFIG_NET_SCH_TBF)", ["tc", "-netns", namespace, "-batch", "-"], lines)  # fmt: skip


def _shaping(link: str, rate_bits_per_s: int, spec: Spec) -> str:
    return f"qdisc add dev {link} root tbf rate {rate_bits_per_s}bit burst {spec.burst_nbytes} limit {_QUEUE_NBYTES}"  # fmt: skip


def _environment() -> dict[str, str]:
    """Return this environment without a launcher's variables, and with what MPI needs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PMI_", "PMIX_", "HYDI_", "MPI_"))}  # fmt: skip
    return kept | {key: os.environ.get(key, value) for key, value in MPI_ENVIRONMENT.items()}


def _prefix(name: str) -> str:
    return f"{PREFIX}{check_name(name)}-"


def _switch(name: str) -> str:
    return f"{_prefix(name)}switch"


def _host(name: str, host: int) -> str:
    return f"{_prefix(name)}node{host}"


def _folder(name: str) -> Path:
    return _STATE / check_name(name)


def _address(host: int) -> str:
    return f"10.77.0.{host + 1}"
