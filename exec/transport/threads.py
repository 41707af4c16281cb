"""Ranks as threads of one process: no MPI needed, and a failure is seen by all at once.

Messages are copied into mailboxes when sent; a collective is computed by the last rank to
arrive, which adds the arrays in the order of ranks, so results do not depend on timing.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from exec.errors import TransportError
from exec.program.ops import CollectiveKind
from exec.transport.mailbox import Key, Mailbox, PeerFailedError, Pending, Sent
from exec.transport.meter import Meter
from exec.transport.protocol import Arrival, Buffer, Lock, Request, Value

Result = TypeVar("Result")
THREADS = "threads"
_LOOK_S = 0.2  # how long a rank waits for a lock before it looks whether another has failed


@dataclass(slots=True)
class _Meeting:
    """One collective under way: what each rank brought, and then what came of it."""

    brought: dict[int, Buffer] = field(default_factory=dict)
    objects: dict[int, Any] = field(default_factory=dict)
    result: Buffer | None = None
    num_left: int = 0


@dataclass(slots=True)
class _World(Mailbox):
    """What the ranks of one job share; ``changed`` guards all of it."""

    meetings: dict[Key, _Meeting] = field(default_factory=dict)


@dataclass(slots=True)
class _FailingLock:
    """A lock that is not waited for once a rank has failed, perhaps the one that held it."""

    world: _World
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self) -> None:
        while not self.lock.acquire(timeout=_LOOK_S):
            self.world.check()
        if self.world.failure:
            self.lock.release()
            self.world.check()

    def release(self) -> None:
        self.lock.release()


@dataclass(slots=True)
class ThreadTransport:
    """A :class:`~exec.transport.protocol.Transport` between threads."""

    world: _World
    group: Key
    rank: int
    size: int
    _meter: Meter = field(default_factory=Meter)
    _num_meetings: int = 0

    @property
    def library(self) -> str:
        """No library: threads of this process."""
        return THREADS

    @property
    def nbytes_sent(self) -> int:
        """The bytes this rank has put into mailboxes, or would have if collectives were messages."""
        return self._meter.nbytes

    def send(self, array: Buffer, dest: int, tag: int) -> Request:
        """Copy ``array`` into the mailbox of ``dest``."""
        self._meter.count_message(array)
        self.world.deliver((*self.group, dest, tag), self.rank, array.copy())
        return Sent()

    def receive(self, array: Buffer, source: int, tag: int) -> Request:
        """Take the first message from ``source`` once there is one."""
        return self.world.receive(array, (*self.group, self.rank, tag), self.rank, source, tag)

    def receive_any(self, array: Buffer, tag: int) -> Arrival:
        """Take the first message once there is one."""
        return self.world.receive(array, (*self.group, self.rank, tag), self.rank, None, tag)

    def shareable_nbytes(self) -> int:
        """Return all: threads share what the process has."""
        return sys.maxsize

    def share(self, size: int, dtype: DTypeLike) -> list[Buffer]:
        """Return every rank's array: threads share all memory."""
        return self.gather_objects(np.zeros(size, dtype))

    def lock(self) -> Lock:
        """Return the lock that rank 0 makes."""
        return self.gather_objects(_FailingLock(self.world))[0]

    def start_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> Request:
        """Bring ``array`` to the meeting; the last to arrive computes, and each takes its share."""
        self._meter.count_collective(kind, array, self.size, self.rank == root)
        key, meeting = self._meet()
        stops = np.cumsum(counts) if len(counts) else np.array([array.size])
        mine = slice(int(stops[self.rank]) - counts[self.rank], int(stops[self.rank])) if len(counts) else slice(None)  # fmt: skip
        with self.world.changed:
            meeting.brought[self.rank] = array
            if len(meeting.brought) == self.size:
                meeting.result = combine(kind, meeting.brought, stops, root)
                self.world.changed.notify_all()

        def finish() -> bool:
            if meeting.result is None:
                return False
            if kind is CollectiveKind.REDUCE_SCATTER:
                array[mine] = meeting.result[mine]
            elif kind is CollectiveKind.REDUCE:
                if self.rank == root:
                    array[...] = meeting.result
            elif kind is not CollectiveKind.BARRIER:
                array[...] = meeting.result
            self._leave(key, meeting)
            return True

        return Pending(self.world, finish)

    def run_collective(
        self, kind: CollectiveKind, array: Buffer, counts: Sequence[int], root: int
    ) -> None:
        """Do ``kind``, and return when it is done."""
        self.start_collective(kind, array, counts, root).Wait()

    def check(self) -> None:
        """Raise if another rank has failed."""
        self.world.check()

    def split(self, color: int) -> "ThreadTransport":
        """Return the group of the ranks that name the same ``color``."""
        colors = self.gather_objects(color)
        members = [rank for rank, theirs in enumerate(colors) if theirs == color]
        group = (*self.group, self._num_meetings, color)
        return ThreadTransport(
            self.world, group, members.index(self.rank), len(members), self._meter
        )

    def close(self) -> None:
        """Do nothing: a group of threads is a name."""

    def gather_objects(self, value: Value) -> list[Value]:
        """Return every rank's ``value``, on every rank."""
        key, meeting = self._meet()
        with self.world.changed:
            meeting.objects[self.rank] = value
            self.world.changed.notify_all()
            self.world.wait_until(lambda: len(meeting.objects) == self.size)
            gathered = [meeting.objects[rank] for rank in range(self.size)]
            self._leave(key, meeting)
        return gathered

    def abort(self, message: str, status: int) -> NoReturn:  # noqa: ARG002  # processes have one
        """Make every other rank raise, and raise here."""
        self.world.fail(message)
        raise TransportError(message)

    def _meet(self) -> tuple[Key, _Meeting]:
        self._num_meetings += 1
        key = (*self.group, self._num_meetings)
        with self.world.changed:
            return key, self.world.meetings.setdefault(key, _Meeting())

    def _leave(self, key: Key, meeting: _Meeting) -> None:
        meeting.num_left += 1
        if meeting.num_left == self.size:
            del self.world.meetings[key]


def combine(kind: CollectiveKind, brought: dict[int, Buffer], stops: Buffer, root: int) -> Buffer:
    """Return what comes of ``kind`` on what the ranks have ``brought``, added in their order.

    The share of rank r ends before ``stops[r]``.
    """
    if kind is CollectiveKind.BROADCAST:
        return brought[root].copy()
    result = brought[0].copy()
    if kind is CollectiveKind.ALLGATHER:
        for rank in range(1, len(brought)):
            result[stops[rank - 1] : stops[rank]] = brought[rank][stops[rank - 1] : stops[rank]]
    elif kind is not CollectiveKind.BARRIER:
        for rank in range(1, len(brought)):
            result += brought[rank]
    return result


def run_threads(size: int, body: Callable[[ThreadTransport], Result]) -> list[Result]:
    """Return ``body(transport)`` of each of ``size`` ranks, run as threads.

    If a rank raises, the others are made to raise too, and its exception is raised here with
    the rank as a note, unless all raise their own. Ctrl-C ends all ranks.
    """
    world = _World()
    if size == 1:
        # In the calling thread, where Ctrl-C arrives: a lone rank waits for nobody, and so would
        # never see that the job has been interrupted.
        return [body(ThreadTransport(world, (), 0, 1))]
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = body(ThreadTransport(world, (), rank, size))
        except PeerFailedError:
            return
        except BaseException as error:  # noqa: BLE001  # handed on to the caller below
            errors[rank] = error
            world.fail(f"rank {rank} failed: {error}")

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"rank {rank}") for rank in range(size)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C, or whatever else a signal handler raises
        world.fail("interrupted")
        for thread in threads:
            if thread.is_alive():
                thread.join()
        raise
    for rank, error in errors.items():
        if len(errors) < size:
            error.add_note(f"raised by rank {rank}")
        raise error
    return [results[rank] for rank in range(size)]
