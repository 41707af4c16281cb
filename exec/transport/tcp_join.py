"""How the ranks of a job without MPI come together: rank 0 serves, and all connect to it."""

import socket
import time
from multiprocessing import AuthenticationError

from exec.errors import TransportError
from exec.transport.rendezvous import TIMEOUT_VARIABLE, Address, Rendezvous
from exec.transport.tcp_server import End, Join, Link, Server, Welcome

_RETRY_S = 0.05


def join(rendezvous: Rendezvous) -> tuple[Link, Server | None]:
    """Return the connection to rank 0, and its server if this is rank 0, once all have come.

    Raises:
        TransportError: not all came in time, or one that came is of another job.
        UsageError: the file of the rendezvous cannot be written.
    """
    deadline_s = time.monotonic() + rendezvous.timeout_s
    server = _serve(rendezvous) if rendezvous.rank == 0 else None
    link: Link | None = None
    try:
        link = _reach(rendezvous, server, deadline_s)
        _wait_for_all(rendezvous, link, server, deadline_s)
    except BaseException:
        if link is not None:
            link.close()
        if server is not None:
            server.stop()
        raise
    finally:
        if server is not None and rendezvous.path is not None:
            rendezvous.path.unlink(missing_ok=True)  # all have read it, or need not any more
    return link, server


def _wait_for_all(
    rendezvous: Rendezvous, link: Link, server: Server | None, deadline_s: float
) -> None:
    """Return when all ranks have joined."""
    link.send(Join(rendezvous.rank, rendezvous.size))
    if not link.has_more(max(0.0, deadline_s - time.monotonic())):
        absent = "" if server is None else f": ranks {server.absent()} have not come"
        raise TransportError(_too_late(rendezvous, f"not all {rendezvous.size} ranks came{absent}"))
    try:
        answer = link.receive()
    except (OSError, EOFError) as error:
        raise TransportError(f"rank 0 left the rendezvous at {rendezvous.where}") from error
    if isinstance(answer, End):
        raise TransportError(answer.message)
    assert isinstance(answer, Welcome)


def _serve(rendezvous: Rendezvous) -> Server:
    port = 0 if rendezvous.address is None else rendezvous.address.port
    try:
        listener = socket.create_server(("", port), backlog=min(rendezvous.size + 8, 4096))
    except OSError as error:
        raise TransportError(
            f"rank 0 cannot listen on port {port} ({error}); choose another MASTER_PORT"
        ) from error
    try:
        address = rendezvous.address or rendezvous.publish(listener.getsockname()[1])
    except BaseException:
        listener.close()
        raise
    server = Server(listener, rendezvous.size, address.token)
    server.start()
    return server


def _reach(rendezvous: Rendezvous, server: Server | None, deadline_s: float) -> Link:
    """Return a connection to rank 0 once it is there."""
    cause = "rank 0 has not said where it listens"
    while True:
        address = rendezvous.look()
        if address is not None:
            try:
                return _open(address, is_here=server is not None)
            except (OSError, EOFError) as error:
                cause = f"rank 0 does not answer ({error or 'it closed the connection'})"
            except (AuthenticationError, AssertionError):
                cause = "what answers is of another job"
        if time.monotonic() > deadline_s:
            raise TransportError(_too_late(rendezvous, cause))
        time.sleep(_RETRY_S)


def _open(address: Address, *, is_here: bool) -> Link:
    host = "127.0.0.1" if is_here or address.host == socket.gethostname() else address.host
    sock = socket.create_connection((host, address.port), timeout=10.0)
    sock.settimeout(None)
    link = Link(sock)
    try:
        link.prove(address.token, is_server=False)
    except BaseException:
        link.close()
        raise
    return link


def _too_late(rendezvous: Rendezvous, cause: str) -> str:
    return (
        f"rank {rendezvous.rank} of {rendezvous.size} waited {rendezvous.timeout_s:g} s at "
        f"{rendezvous.where}: {cause}; {TIMEOUT_VARIABLE} sets the time"
    )
