"""Who goes next: the streams of all emulated devices of this process, as queues.

Nothing is done until a host waits for something. Its thread then takes one item after the other
from the queues, whatever device they are of, until that is done. With a generator it takes from any
queue whose first item may run, staying with one queue for a while; without, in the order in which
items were given. One lock guards everything, so only one thread works at a time.

A host that waits for what can never come is told so: the items that hold each other up are followed
from the queue it waits for, until there is a thread that may still give something.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Protocol

from exec.errors import DeviceError

LOOK_S = 0.2
"""How long a host waits for other threads before it looks whether the job has failed."""

MOST_ITEMS = 4096
"""What a queue holds before the host must help, as a GPU's launches are limited."""

CHANCE_TO_CHANGE = 1 / 8


class Item(Protocol):
    """Something in a queue."""

    def is_ready(self) -> bool:
        """Say whether it may run, now that it is the first of its queue."""
        ...

    def run(self) -> object:
        """Do it."""
        ...

    def given_to(self, queue: "Queue") -> "Item":
        """Return what is put into ``queue`` for it; it may be itself."""
        ...

    def blockers(self) -> Iterable["Queue | Owner"]:
        """Return what must go on before it may run: each of them."""
        ...


@dataclass(slots=True, eq=False)
class Owner:
    """A device: its ``chance`` decides what its hosts run next; ``threads`` gave it work.

    While other threads are at work, ``look`` is called now and then by a host that waits, to raise
    if the job has failed.
    """

    name: str
    chance: Random | None
    look: Callable[[], object] = field(default=lambda: None)
    error: Exception | None = None
    threads: set[threading.Thread] = field(default_factory=set)

    def check(self) -> None:
        """Raise what has gone wrong on it, as every later call does on a GPU."""
        if self.error is not None:
            raise self.error


@dataclass(slots=True, eq=False)
class Queue:
    """What a stream was given and has not done, each item with its place in the order of giving."""

    owner: Owner
    items: deque[tuple[int, Item]] = field(default_factory=deque)


class Scheduler:
    """All queues that hold something."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._busy: list[Queue] = []
        self._last: Queue | None = None
        self._serial = count()
        self._waiting: dict[threading.Thread, Callable[[], Sequence[Queue | Owner]]] = {}

    def put(self, queue: Queue, items: Iterable[Item]) -> None:
        """Give ``items`` to a queue, together."""
        with self.changed:
            queue.owner.check()
            queue.owner.threads.add(threading.current_thread())
            for item in items:
                queue.items.append((next(self._serial), item.given_to(queue)))
            self._note(queue)
            if len(queue.items) > MOST_ITEMS:
                while len(queue.items) > MOST_ITEMS // 2 and self._step(queue.owner.chance):
                    pass

    def holds(self, owner: Owner) -> list[Queue]:
        """Return the queues of ``owner`` that hold something."""
        return [queue for queue in self._busy if queue.owner is owner]

    def help_along(self, owner: Owner) -> None:
        """Run a few items, as a GPU has gone on by the time a host looks at it again."""
        with self.changed:
            owner.check()
            for _ in range(1 if owner.chance is None else owner.chance.randrange(1, 16)):
                if not self._step(owner.chance):
                    break
            owner.check()

    def wait(
        self, owner: Owner, is_done: Callable[[], bool],
        blockers: Callable[[], Sequence[Queue | Owner]],
    ) -> None:  # fmt: skip
        """Return when ``is_done``, which needs each of the ``blockers`` to go on.

        Raises:
            DeviceError: it can never be done.
        """
        while not self._run_until(owner, is_done, blockers):
            owner.look()

    def fail(self, owner: Owner, error: Exception) -> None:
        """Let every wait for ``owner`` end with ``error``; what it was given is dropped."""
        with self.changed:
            owner.error = owner.error or error
            for queue in self.holds(owner):
                queue.items.clear()
                self._busy.remove(queue)
            self.changed.notify_all()

    def _note(self, queue: Queue) -> None:
        if queue.items and queue not in self._busy:
            self._busy.append(queue)
        if self._waiting:
            self.changed.notify_all()

    def _run_until(
        self, owner: Owner, is_done: Callable[[], bool],
        blockers: Callable[[], Sequence[Queue | Owner]],
    ) -> bool:  # fmt: skip
        """Run items; return False after a while in which none could run."""
        with self.changed, self._as_waiting(owner, blockers):
            while True:
                owner.check()
                if is_done():
                    return True
                if self._step(owner.chance):
                    continue
                if any(self._is_hopeless(each, []) for each in blockers()):
                    error = DeviceError(
                        f"{owner.name} waits for what never comes: {self._describe()}"
                    )
                    self.fail(owner, error)
                    raise error
                if not self.changed.wait(LOOK_S):
                    return False

    @contextmanager
    def _as_waiting(
        self, owner: Owner, blockers: Callable[[], Sequence[Queue | Owner]]
    ) -> Iterator[None]:
        thread = threading.current_thread()
        owner.threads.add(thread)
        self._waiting[thread] = blockers
        self.changed.notify_all()
        try:
            yield
        finally:
            del self._waiting[thread]

    def _step(self, chance: Random | None) -> bool:
        """Run one item, if any may run."""
        if chance is None:
            order = sorted(self._busy, key=lambda queue: queue.items[0][0])
        elif self._last in self._busy and chance.random() >= CHANCE_TO_CHANGE:
            order = [self._last, *chance.sample(self._busy, len(self._busy))]
        else:
            order = chance.sample(self._busy, len(self._busy))
        return any(self._run_first(queue) for queue in order)

    def _run_first(self, queue: Queue) -> bool:
        # What came before it may have failed, and dropped what this queue held.
        if not queue.items:
            return False
        item = queue.items[0][1]
        try:
            if not item.is_ready():
                return False
            item.run()
        except Exception as error:  # noqa: BLE001  # raised in the threads that use the device
            self.fail(queue.owner, error)
            return True
        self._last = queue
        if queue.items:
            queue.items.popleft()
            if not queue.items:
                self._busy.remove(queue)
        if len(self._waiting) > 1:
            self.changed.notify_all()
        return True

    def _is_hopeless(self, blocker: Queue | Owner, path: list[Queue | Owner]) -> bool:
        """Say whether ``blocker`` can never go on, given that no item can run now."""
        if blocker in path:
            return True
        inner = [*path, blocker]
        if isinstance(blocker, Queue):
            if blocker.owner.error is not None:
                return True
            return bool(blocker.items) and any(
                self._is_hopeless(each, inner) for each in blocker.items[0][1].blockers()
            )
        if blocker.error is not None:
            return True
        alive = [thread for thread in blocker.threads if thread.is_alive()]
        return bool(alive) and all(
            thread in self._waiting
            and any(self._is_hopeless(each, inner) for each in self._waiting[thread]())
            for thread in alive
        )

    def _describe(self) -> str:
        heads = [f"{queue.owner.name} at {queue.items[0][1]}" for queue in self._busy]
        return "; ".join(heads) or "nothing is under way"


SCHEDULER = Scheduler()
"""That of this process: ranks that are threads of it meet here."""
