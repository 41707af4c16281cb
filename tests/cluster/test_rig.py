"""The rig on the machine: what it shapes, and that nothing of it stays behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster import rig
from tests.cluster.namespaces import ask, namespaces
from tests.cluster.spec import Spec
from tests.conftest import ROOT, Finished, clean_environment, run_process
from tests.exec.test_train import SMALL, assert_one_error, assert_same_curve, record_of, train

pytestmark = [pytest.mark.mpi, pytest.mark.rig]

RATE = 50_000_000
SIZE = 1 << 18
SLEEPER = "import socket, time; print(socket.gethostname(), flush=True); time.sleep(600)"


def cli(*arguments: object, interrupt_at: str | None = None) -> Finished:
    return run_process(
        [sys.executable, "-m", "tests.cluster", *map(str, arguments)], interrupt_at=interrupt_at
    )


def pids(name: str) -> list[int]:
    found = [ask("", ["ip", "netns", "pids", each]).split() for each in namespaces(f"stepcast-{name}-")]  # fmt: skip
    return [int(pid) for each in found for pid in each]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(name: str) -> None:
    assert namespaces(f"stepcast-{name}-") == []
    assert name not in rig.rigs()


def fastest_s(name: str, pattern: str, nbytes: int) -> float:
    command = ["python", "-m", "tests.cluster.messages", pattern, "3", str(nbytes)]
    done = rig.run(name, command, is_captured=True, timeout_s=60)
    assert done.returncode == 0, done.stderr
    return min(json.loads(done.stdout)[str(nbytes)])


def test_up_run_down_leaves_nothing_behind(name: str) -> None:
    assert cli("up", "--hosts", 3, "--ranks-per-host", 2, "--name", name).returncode == 0
    # One write a line, lest those of several ranks mix.
    asked = "import os, socket; os.write(1, f'{socket.gethostname()} {socket.gethostbyname(\"node2\")}\\n'.encode())"
    done = cli("run", "--name", name, "--", "python", "-c", asked)
    assert done.returncode == 0, done.stderr
    expected = sorted(f"node{host} 10.77.0.3" for host in range(3) for _ in range(2))
    assert sorted(done.stdout.split("\n")) == ["", *expected]
    assert cli("run", "--name", name, "--", "python", "-c", "raise SystemExit(3)").returncode == 3
    assert pids(name) == []
    assert cli("down", "--name", name).stdout == f"rig {name} is down\n"
    assert_gone(name)
    assert cli("down", "--name", name).stdout == f"rig {name} was not up\n"


def test_what_a_killed_run_leaves_ends_with_the_rig(name: str) -> None:
    rig.up(Spec(2, RATE), name)
    command = [sys.executable, "-m", "tests.cluster", "run", "--name", name, "--", "python", "-c", SLEEPER]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # a rank is asleep on its host
        started = pids(name)
        assert started
        process.kill()
    assert rig.down(name)
    assert_gone(name)
    assert not any(is_alive(pid) for pid in started)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_an_idle_rig(name: str, signal_number: signal.Signals) -> None:
    rig.up(Spec(2, RATE), name)
    command = [sys.executable, "-m", "tests.cluster", "run", "--name", name, "--", "python", "-c", SLEEPER]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal_number)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal_number
    assert pids(name) == []
    assert rig.run(name, ["true"]).returncode == 0


def test_a_rig_that_cannot_be_made_whole_is_not_made(name: str) -> None:
    with pytest.raises(rig.RigError, match="token bucket filter"):
        rig.up(Spec(2, 10**30), name)
    assert_gone(name)


def test_a_rig_is_not_made_twice_nor_used_twice_at_once(name: str) -> None:
    rig.up(Spec(1, RATE), name)
    assert_one_error(cli("up", "--hosts", 1, "--name", name), f"rig {name} is up already")
    own = ["python", "-m", "tests.cluster", "run", "--name", name, "--", "true"]
    inner = rig.run(name, own, is_captured=True)  # one host runs a command that would use it too
    assert inner.returncode == 2
    assert f"rig {name} runs something already" in inner.stderr
    assert cli("run", "--name", name, "--", "true").returncode == 0


def test_a_rig_without_its_files_is_found_and_strangers_are_let_be(name: str) -> None:
    strange = f"stranger-{name}"
    ask("", ["ip", "netns", "add", strange])
    try:
        rig.up(Spec(1, RATE), name)
        for file in (Path("/run/stepcast") / name).iterdir():
            file.unlink()
        assert name in rig.rigs()
        assert not any("stranger" in each for each in rig.rigs())
        assert rig.down(name)
        assert_gone(name)
    finally:
        ask("", ["ip", "netns", "delete", strange])  # fails if it is gone


def test_padded_training_on_two_hosts_ends_as_the_serial_one(name: str, tmp_path: Path) -> None:
    serial, path = record_of(train(*SMALL, "--json")), tmp_path / "pace.json"
    made = run_process([sys.executable, "-m", "sim.pace", "--machine", "paper/measurements/machine-2core-epyc.json", "--multiple", "2",
                        "--net", "128-12-26", "--num-train", "530", "--ranks", "2", "--algorithm", "ring", "--out", str(path)])  # fmt: skip
    assert made.returncode == 0, made.stderr
    rig.up(Spec(2, RATE), name)
    done = cli("run", "--name", name, "--", "python", "-m", "exec.train", *SMALL, "--algorithm", "ring", "--pace", path, "--json")  # fmt: skip
    record = record_of(done)
    assert record["ranks"] == 2
    assert record["padded"]["multiple"] == 2  # type: ignore[index]  # a dict
    assert_same_curve(record, serial)
    sent = {each.link: each.sent_nbytes for each in rig.traffic(name)}
    assert min(sent.values()) > record["sent_bytes"] / 2  # type: ignore[operator]  # a number; headers come on top


def test_a_link_is_never_above_its_rate_and_a_slow_one_is_slower(name: str) -> None:
    spec, slow = Spec(2, RATE), Spec(2, RATE, slow_links=((1, RATE // 10),))
    with rig.cluster(spec, name):
        plain_s = fastest_s(name, "ping", SIZE)
    with rig.cluster(slow, name):
        slow_s = fastest_s(name, "ping", SIZE)
    least_s = 8 * (SIZE - spec.burst_nbytes) / RATE  # of one way: buckets may be full at the start
    assert plain_s > 2 * least_s
    assert slow_s > 2 * 10 * least_s
    assert slow_s > 2 * plain_s  # ten times, but for what disturbs


def test_what_passes_between_racks_shares_the_uplink(name: str) -> None:
    spec = Spec(4, RATE, racks=2, uplink_bits_per_s=RATE)
    with rig.cluster(spec, name):
        before = {each.link: each.sent_nbytes for each in rig.traffic(name)}["uplink"]
        inside_s = fastest_s(name, "ping", SIZE)  # hosts 0 and 1 are in one rack
        between = {each.link: each.sent_nbytes for each in rig.traffic(name)}["uplink"]
        both_s = fastest_s(name, "across", SIZE)
        after = {each.link: each.sent_nbytes for each in rig.traffic(name)}["uplink"]
        assert all(each.dropped == 0 for each in rig.traffic(name))
    assert inside_s > 0
    assert between - before < SIZE  # of eight messages of that size, none
    assert after - between > 4 * 2 * SIZE
    assert both_s > 8 * (2 * SIZE - 2 * spec.burst_nbytes) / RATE
