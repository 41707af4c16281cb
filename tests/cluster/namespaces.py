"""Network namespaces by name, through iproute2; nothing that another name begins with is touched."""

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from exec.errors import StepcastError

PREFIX = "stepcast-"


class RigError(StepcastError):
    """A rig that this machine cannot have, that is not up, or is up already."""


def check_able() -> None:
    """Raise :class:`RigError` unless this process may make a rig; the kernel is asked later."""
    if os.geteuid() != 0:
        raise RigError("the rig needs root, to make network namespaces; run it with sudo")
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux"), ("unshare", "util-linux")):  # fmt: skip
        if shutil.which(tool) is None:
            raise RigError(f"the rig needs the command {tool}; install {package}")


def ask(what: str, command: Sequence[str], lines: Iterable[str] = ()) -> str:
    """Return what ``command`` prints, given ``lines``; ``what`` is what it needs of the kernel.

    Raises:
        RigError: it failed.
    """
    done = subprocess.run(
        command, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        cause = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise RigError(f"the rig needs {what}, and the kernel says: {cause} ({' '.join(command)})")
    return done.stdout


def namespaces(prefix: str) -> list[str]:
    """Return the namespaces whose names begin with ``prefix``, which is one of ours."""
    assert prefix.startswith(PREFIX)
    listed = ask("network namespaces", ["ip", "-json", "netns", "list"]) or "[]"
    return sorted(each["name"] for each in json.loads(listed) if each["name"].startswith(prefix))


def kill_all(names: Iterable[str]) -> None:
    """Kill every process in the namespaces ``names``, and return when all have gone.

    Killing takes several turns where a process starts others in the meantime.
    """
    for name in names:
        while pids := [int(pid) for pid in ask("network namespaces", ["ip", "netns", "pids", name]).split()]:  # fmt: skip
            for pid in pids:
                _kill(pid)


def _kill(pid: int) -> None:
    """Kill ``pid``, and return when it has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
    except ProcessLookupError:
        pass  # it has ended by itself
    finally:
        os.close(handle)


def delete(names: Iterable[str]) -> None:
    """Delete the namespaces ``names`` and whatever is in them: processes, links, queues."""
    names = list(names)
    kill_all(names)
    for name in names:
        ask("network namespaces", ["ip", "netns", "delete", name])


def queues(namespace: str) -> dict[str, dict[str, Any]]:
    """Return the statistics of the shaped queue of every link in ``namespace``, by link."""
    listed = json.loads(ask("tc", ["tc", "-netns", namespace, "-statistics", "-json", "qdisc", "show"]))  # fmt: skip
    return {each["dev"]: each for each in listed if each["kind"] == "tbf"}
