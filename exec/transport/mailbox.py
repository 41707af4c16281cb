"""Messages that have come to ranks of this process, and requests that wait for them."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from exec.errors import TransportError
from exec.transport.protocol import Buffer

Key = tuple[object, ...]


class PeerFailedError(TransportError):
    """Raised in the ranks that did not fail, when another did."""


@dataclass(slots=True)
class Mailbox:
    """What has come, by whom and what for; ``changed`` guards all of it."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    mail: dict[Key, deque[tuple[int, Buffer]]] = field(default_factory=lambda: defaultdict(deque))
    failure: str = ""

    def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Return when ``predicate`` holds; raise if a rank has failed. The lock must be held."""
        while not predicate():
            self.check()
            self.changed.wait()

    def check(self) -> None:
        """Raise if a rank has failed."""
        if self.failure:
            raise PeerFailedError(self.failure)

    def fail(self, message: str) -> None:
        """Let all who wait raise ``message``, unless they have another to raise."""
        with self.changed:
            self.failure = self.failure or message
            self.changed.notify_all()

    def deliver(self, key: Key, source: int, message: Buffer) -> None:
        """Put ``message`` behind those that have come for ``key``."""
        with self.changed:
            self.mail[key].append((source, message))
            self.changed.notify_all()

    def receive(
        self, array: Buffer, key: Key, rank: int, source: int | None, tag: int
    ) -> "Pending":
        """Take the first message for ``key``, from ``source`` if it is given, once there is one."""
        with self.changed:
            queue = self.mail[key]

        def finish() -> bool:
            for i, (sender, message) in enumerate(queue):
                if source is None or sender == source:
                    if message.shape != array.shape or message.dtype != array.dtype:
                        raise TransportError(
                            f"rank {rank} receives {array.size} {array.dtype} with tag {tag}, "
                            f"but rank {sender} sent {message.size} {message.dtype}"
                        )
                    del queue[i]
                    array[...] = message
                    pending.source = sender
                    return True
            return False

        pending = Pending(self, finish)
        return pending


class Sent:
    """A message that has been copied: done at once."""

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        """Say that it is done."""
        return True

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        """Return at once."""


@dataclass(slots=True)
class Pending:
    """A receive or a collective: ``finish`` does it if it can be done, and says so."""

    mailbox: Mailbox
    finish: Callable[[], bool]
    is_done: bool = False
    source: int = -1

    def Test(self) -> bool:  # noqa: N802  # the protocol's name
        """Do it if it can be done, and say so."""
        with self.mailbox.changed:
            self.mailbox.check()
            self.is_done = self.is_done or self.finish()
            return self.is_done

    def Wait(self) -> None:  # noqa: N802  # the protocol's name
        """Return once it is done."""
        with self.mailbox.changed:
            if not self.is_done:
                self.mailbox.wait_until(self.finish)
                self.is_done = True
