"""The server of a job without MPI: in rank 0's process, it relays what ranks tell one another.

Every rank has one connection to it. It unpickles what ranks send, so a connection counts only once
both ends have proven that they know the job's token. When a rank is lost, or ends the job, all
others are told.
"""

import os
import socket
import struct
import threading
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from exec.transport.mailbox import Key

_HANDSHAKE_S = 10
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # gone after a minute


@dataclass(frozen=True, slots=True)
class Join:
    """The first message of a rank."""

    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """To every rank, once all have joined."""


@dataclass(frozen=True, slots=True)
class Mail:
    """An array for ``dest``; ``source`` is a rank of the group that ``key`` names."""

    dest: int
    key: Key
    source: int
    array: Any


@dataclass(frozen=True, slots=True)
class Meet:
    """What one of ``members`` brings to a meeting; the answer is everybody's, in their order."""

    key: Key
    members: tuple[int, ...]
    value: Any


@dataclass(frozen=True, slots=True)
class Met:
    """What all have brought."""

    key: Key
    values: list[Any]


@dataclass(frozen=True, slots=True)
class End:
    """The job is over; ``is_said`` if the user has been told why."""

    message: str
    is_said: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """The last message of a rank that is through."""


class Link:
    """A connection on which several threads may send; ``shut`` ends a read under way."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._sending = sock, threading.Lock()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._connection: Connection = Connection(os.dup(sock.fileno()))

    def prove(self, token: str, *, is_server: bool) -> None:
        """Prove to each other that both ends know ``token``.

        Raises:
            AuthenticationError: the other does not.
            OSError: the other is silent, or gone.
            EOFError: the other is gone.
        """
        self._limit(_HANDSHAKE_S)
        if is_server:
            deliver_challenge(self._connection, token.encode())
            answer_challenge(self._connection, token.encode())
        else:
            answer_challenge(self._connection, token.encode())
            deliver_challenge(self._connection, token.encode())
        self._limit(0)

    def _limit(self, seconds: int) -> None:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))

    def send(self, message: object) -> None:
        """Send ``message``."""
        with self._sending:
            self._connection.send(message)

    def receive(self) -> Any:
        """Return the next message; EOFError or OSError if the other is gone."""
        return self._connection.recv()

    def has_more(self, timeout_s: float) -> bool:
        """Say whether there is something to receive within that time."""
        return self._connection.poll(timeout_s)

    def shut(self) -> None:
        """End the connection; the other, and who reads here, finds its end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other was faster

    def close(self) -> None:
        """Give the connection back; nobody may be reading."""
        self._socket.close()
        self._connection.close()


@dataclass(slots=True)
class Server:
    """Relays between ``size`` ranks that come to ``listener`` and know ``token``."""

    listener: socket.socket
    size: int
    token: str
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _links: dict[int, Link] = field(default_factory=dict)
    _gone: set[int] = field(default_factory=set)
    _left: set[int] = field(default_factory=set)
    _meetings: dict[Key, dict[int, Any]] = field(default_factory=dict)
    _has_ended: bool = False
    _is_over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to accept ranks."""
        threading.Thread(target=self._accept, name="stepcast server", daemon=True).start()

    def absent(self) -> list[int]:
        """Return the ranks that have not joined."""
        with self._changed:
            return [rank for rank in range(self.size) if rank not in self._links]

    def wait_until_all_have_left(self) -> None:
        """Return when every rank has left, or the job has ended."""
        self._is_over.wait()
        self.stop()

    def wait_until_others_are_gone(self, timeout_s: float) -> None:
        """Return when no rank but 0 is connected any more, or after that time."""
        with self._changed:
            self._changed.wait_for(lambda: {0, *self._gone} >= self._links.keys(), timeout_s)

    def stop(self) -> None:
        """Listen no more, and end all connections."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # which ends an accept under way
        finally:
            self.listener.close()
        with self._changed:
            for link in self._links.values():
                link.shut()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return  # closed: the job is over
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        link = Link(sock)
        try:
            link.prove(self.token, is_server=True)
            join = link.receive()
        except (AuthenticationError, AssertionError, OSError, EOFError):
            link.close()  # a stranger, or a rank of another job
            return
        if self._seat(link, join):
            self._relay(link, join.rank)
        with self._changed:
            link.close()
            self._gone.add(join.rank)
            self._changed.notify_all()

    def _seat(self, link: Link, join: Join) -> bool:
        """Say whether the rank that joins belongs to the job; when it is the last, greet all."""
        with self._changed:
            if join.size != self.size or join.rank in self._links:
                cause = (
                    f"rank {join.rank} has come twice"
                    if join.size == self.size
                    else f"rank {join.rank} is of a job of {join.size} ranks, not {self.size}"
                )
                link.send(End(f"{cause}; is another job using the same rendezvous?", False))
                return False
            self._links[join.rank] = link
            if len(self._links) == self.size:
                self._tell(range(self.size), Welcome())
        return True

    def _relay(self, link: Link, rank: int) -> None:
        """Do what the rank asks until its connection ends."""
        while True:
            try:
                message = link.receive()
            except (OSError, EOFError):
                message = None
            with self._changed:
                match message:
                    case Mail(dest):
                        self._tell([dest], message)
                    case Meet(key, members, value):
                        self._meet(key, members, rank, value)
                    case End():
                        self._end(message)
                    case Leave():
                        self._left.add(rank)
                        if len(self._left) == self.size:
                            self._is_over.set()
                    case None:
                        if rank not in self._left:
                            self._end(End(f"rank {rank} of {self.size} is lost: its connection "
                                          f"broke, so it has probably died", is_said=False))  # fmt: skip
                        return

    def _meet(self, key: Key, members: tuple[int, ...], rank: int, value: object) -> None:
        brought = self._meetings.setdefault(key, {})
        brought[rank] = value
        if len(brought) == len(members):
            self._tell(members, Met(key, [brought[member] for member in members]))
            del self._meetings[key]

    def _end(self, end: End) -> None:
        """Tell all, rank 0 last: this server ends with it."""
        if not self._has_ended:
            self._has_ended = True
            self._tell([*range(1, self.size), 0], end)
            self._is_over.set()

    def _tell(self, ranks: "range | tuple[int, ...] | list[int]", message: object) -> None:
        for rank in ranks:
            if rank in self._left or rank not in self._links:
                continue
            try:
                self._links[rank].send(message)
            except OSError:
                continue  # it is gone; the thread that reads from it says so to all
