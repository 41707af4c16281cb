"""Ranks as processes without MPI: a control plane over TCP, for where NCCL carries the arrays.

Everything passes through a server in rank 0's process, so it is slow by design: it is there to
gather objects, to split groups and to end the job when a rank is lost. Messages and collectives of
the host work too, for what little of them there is. It uses :mod:`pickle` between the ranks of the
job, and with nobody else (see ``tcp_server.py``).
"""

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import DTypeLike

from exec.errors import TransportError
from exec.program.ops import CollectiveKind
from exec.transport.mailbox import Key, Mailbox, PeerFailedError, Pending, Sent
from exec.transport.meter import Meter
from exec.transport.protocol import Arrival, Buffer, Lock, Request, Value
from exec.transport.rendezvous import Rendezvous
from exec.transport.tcp_join import join
from exec.transport.tcp_server import (
    End,
    Leave,
    Link,
    Mail,
    Meet,
    Met,
    Server,
)
from exec.transport.threads import combine

_END_S = 5.0  # how long a rank that ends the job waits until all others know


def connect(rendezvous: Rendezvous) -> "TcpTransport":
    """Return the transport between the ranks that meet at ``rendezvous``, once all have come.

    Raises:
        TransportError: not all came in time, or one that came is of another job.
        UsageError: the file of the rendezvous cannot be written.
    """
    link, server = join(rendezvous)
    world = _World(link, server, rendezvous.rank, rendezvous.size)
    world.reader = threading.Thread(target=world.read, name="stepcast reader", daemon=True)
    world.reader.start()
    return TcpTransport(world, (), tuple(range(rendezvous.size)), rendezvous.rank)


@dataclass(slots=True)
class _World:
    """What all groups of this rank have in common."""

    link: Link
    server: Server | None
    rank: int
    size: int
    mailbox: Mailbox = field(default_factory=Mailbox)
    meter: Meter = field(default_factory=Meter)
    met: dict[Key, list[object]] = field(default_factory=dict)
    reader: threading.Thread | None = None
    is_said: bool = False
    is_server_lost: bool = False
    has_left: bool = False

    def read(self) -> None:
        """Take what comes until the connection ends."""
        while True:
            try:
                message = self.link.receive()
            except (OSError, EOFError):
                self.is_server_lost = True
                message = End(f"rank 0 of {self.size} is lost: its connection broke, so it has "
                              f"probably died", is_said=False)  # fmt: skip
            match message:
                case Mail(_, key, source, array):
                    self.mailbox.deliver(key, source, array)
                case Met(key, values):
                    with self.mailbox.changed:
                        self.met[key] = values
                        self.mailbox.changed.notify_all()
                case End(cause, is_said):
                    if not self.has_left:
                        self.is_said = is_said
                        self.mailbox.fail(cause)
                    return

    def send(self, message: object) -> None:
        """Send to the server; once the job has ended, raise why."""
        self.mailbox.check()
        try:
            self.link.send(message)
        except OSError as error:
            with self.mailbox.changed:  # the reader hears why
                self.mailbox.wait_until(lambda: False)
            raise AssertionError from error  # pragma: no cover  # the wait above never ends in peace


class TcpTransport:
    """A :class:`~exec.transport.protocol.Transport` between processes without MPI."""

    def __init__(self, world: _World, group: Key, members: tuple[int, ...], rank: int) -> None:
        self._world, self._group, self._members = world, group, members
        self.rank, self.size = rank, len(members)
        self._num_meetings = 0

    @property
    def library(self) -> str:
        """No library: sockets."""
        return "tcp"

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has sent, or would have if collectives were messages."""
        return self._world.meter.nbytes

    def send(self, array: Buffer, dest: int, tag: int) -> Request:
        """Send a copy of ``array``."""
        self._world.meter.count_message(array)
        self._world.send(Mail(self._members[dest], (*self._group, tag), self.rank, array))
        return Sent()

    def receive(self, array: Buffer, source: int, tag: int) -> Request:
        """Take the first message from ``source`` once there is one."""
        return self._world.mailbox.receive(array, (*self._group, tag), self.rank, source, tag)

    def receive_any(self, array: Buffer, tag: int) -> Arrival:
        """Take the first message once there is one."""
        return self._world.mailbox.receive(array, (*self._group, tag), self.rank, None, tag)

    def start_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> Request:
        """Bring ``array`` to the server; every rank adds what all have brought, in their order."""
        self._world.meter.count_collective(kind, array, self.size, self.rank == root)
        key = self._meet(array)
        stops = np.cumsum(counts) if len(counts) else np.array([array.size])
        start = sum(counts[: self.rank])
        shared = kind is CollectiveKind.REDUCE_SCATTER
        mine = slice(start, start + counts[self.rank]) if shared else slice(None)
        is_taken = kind is not CollectiveKind.BARRIER and (
            kind is not CollectiveKind.REDUCE or self.rank == root
        )

        def finish() -> bool:
            if key not in self._world.met:
                return False
            brought: dict[int, Buffer] = dict(enumerate(self._world.met.pop(key)))  # type: ignore[arg-type]  # arrays
            if is_taken:
                array[mine] = combine(kind, brought, stops, root)[mine]
            return True

        return Pending(self._world.mailbox, finish)

    def run_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> None:
        """Do ``kind``, and return when it is done."""
        self.start_collective(kind, array, counts, root).Wait()

    def shareable_nbytes(self) -> int:
        """Return none: what TCP connects has no memory in common."""
        return 0

    def share(self, size: int, dtype: DTypeLike) -> list[Buffer]:
        """Refuse: what TCP connects has no memory in common."""
        raise TransportError(
            f"shared memory needs ranks started with MPI or as threads, got {self.size} over TCP "
            f"({size} {np.dtype(dtype)}); use --transport mpi, or choose another strategy"
        )

    def lock(self) -> Lock:
        """Refuse: a lock is for shared memory."""
        raise TransportError(
            "locks need ranks started with MPI or as threads, got TCP; use --transport mpi, or "
            "choose another strategy"
        )

    def check(self) -> None:
        """Raise if another rank has failed."""
        self._world.mailbox.check()

    def split(self, color: int) -> "TcpTransport":
        """Return the group of the ranks that name the same ``color``."""
        colors = self.gather_objects(color)
        members = [rank for rank, theirs in enumerate(colors) if theirs == color]
        group = (*self._group, self._num_meetings, color)
        worldwide = tuple(self._members[member] for member in members)
        return TcpTransport(self._world, group, worldwide, members.index(self.rank))

    def close(self) -> None:
        """Leave, if this is the group of all ranks; a part of it is only a name."""
        world = self._world
        if self._group or world.has_left:
            return
        self.gather_objects(None)
        world.has_left = True
        world.link.send(Leave())
        if world.server is not None:
            world.server.wait_until_all_have_left()
        world.link.shut()
        assert world.reader is not None
        world.reader.join()
        world.link.close()

    def gather_objects(self, value: Value) -> list[Value]:
        """Return every rank's ``value``, on every rank."""
        key, world = self._meet(value), self._world
        with world.mailbox.changed:
            world.mailbox.wait_until(lambda: key in world.met)
            return world.met.pop(key)  # type: ignore[return-value]  # what they brought

    def _meet(self, value: object) -> Key:
        self._num_meetings += 1
        key = (*self._group, self._num_meetings)
        self._world.send(Meet(key, self._members, value))
        return key

    def abort(self, message: str, status: int) -> NoReturn:
        """End this process with ``status``, once all others know that the job has ended.

        What ends the job is said once: by the rank that ends it, or by the first one left if a
        rank is lost.
        """
        world = self._world
        try:
            world.send(End(message, is_said=True))
            _say(message)
            with world.mailbox.changed:
                world.mailbox.changed.wait_for(lambda: bool(world.mailbox.failure), _END_S)
        except PeerFailedError as failure:
            if not world.is_said and world.rank == int(world.is_server_lost):
                _say(f"error: {failure}")
        if world.server is not None:  # which ends with this process: not before all know
            world.server.wait_until_others_are_gone(_END_S)
        os._exit(status)


def _say(message: str) -> None:
    sys.stderr.write(message.rstrip("\n") + "\n")
    sys.stderr.flush()
