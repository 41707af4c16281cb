"""How ranks without MPI find one another: by what a launcher says, or by a file that all can read.

With a file (``STEPCAST_RENDEZVOUS=path``) rank 0 takes a free port and writes where it is, with a
secret that only readers of the file know. Otherwise the launcher names rank 0's place by
``MASTER_ADDR`` and ``MASTER_PORT``, as torchrun does; then ``STEPCAST_TOKEN`` may give a secret.
Without one the token only tells this job from another: such a port belongs in a trusted network.
"""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from exec.errors import UsageError
from exec.launch import launched_rank, launched_ranks

PATH_VARIABLE = "STEPCAST_RENDEZVOUS"
TOKEN_VARIABLE = "STEPCAST_TOKEN"  # noqa: S105  # the name of a variable
TIMEOUT_VARIABLE = "STEPCAST_RENDEZVOUS_TIMEOUT_S"
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where rank 0 listens, and what those who come must know."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Which rank this is, and how it finds rank 0: by a file at ``path``, or at ``address``."""

    rank: int
    size: int
    path: Path | None
    address: Address | None
    timeout_s: float = _TIMEOUT_S

    @property
    def where(self) -> str:
        """The place, in words."""
        if self.path is not None:
            return f"file {self.path}"
        assert self.address is not None
        return f"{self.address.host}:{self.address.port}"

    def publish(self, port: int) -> Address:
        """Write to the file, readable by this user only, that rank 0 listens on ``port`` here.

        Raises:
            UsageError: the file cannot be written.
        """
        assert self.path is not None
        address = Address(socket.gethostname(), port, secrets.token_hex(32))
        written = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            written.touch(mode=0o600, exist_ok=False)
            written.write_text(json.dumps(asdict(address)))
            written.replace(self.path)  # never seen half written
        except OSError as error:
            raise UsageError(
                f"{PATH_VARIABLE} must name a file that rank 0 can write, got {self.path} ({error})"
            ) from error
        return address

    def look(self) -> Address | None:
        """Return where rank 0 listens, or None if it has not said so yet."""
        if self.address is not None:
            return self.address
        assert self.path is not None
        try:
            found = json.loads(self.path.read_text())
            return Address(str(found["host"]), int(found["port"]), str(found["token"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None  # not there yet, or something else's: waited for until the timeout


def find_rendezvous(environ: Mapping[str, str]) -> Rendezvous | None:
    """Return what the environment says, or None if it names no place to meet.

    Raises:
        UsageError: it names one in part, or with impossible numbers.
    """
    path, host = environ.get(PATH_VARIABLE), environ.get("MASTER_ADDR")
    if not path and not (host and "RANK" in environ):
        return None
    size = _number(environ, "WORLD_SIZE", launched_ranks(environ), least=1)
    rank = _number(environ, "RANK", launched_rank(environ), least=0)
    if rank >= size:
        raise UsageError(f"RANK must be below WORLD_SIZE {size}, got {rank}")
    timeout_s = float(_number(environ, TIMEOUT_VARIABLE, int(_TIMEOUT_S), least=1))
    if path:
        return Rendezvous(rank, size, Path(path), None, timeout_s)
    assert host is not None
    port = _number(environ, "MASTER_PORT", None, least=1)
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port += 1  # torchrun itself listens on the port that it names
    job = environ.get("TORCHELASTIC_RUN_ID") or environ.get("SLURM_JOB_ID") or "stepcast"
    token = environ.get(TOKEN_VARIABLE) or f"{job}@{host}:{port}"
    return Rendezvous(rank, size, None, Address(host, port, token), timeout_s)


def _number(environ: Mapping[str, str], name: str, default: int | None, least: int) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {text!r}")
    return int(text)
