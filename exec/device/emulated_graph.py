"""Graphs of the emulated device: what a capture noted down, given to the queues at each launch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exec.device.emulated_items import Await, EmulatedEvent, Pass, check_not_capturing
from exec.device.emulated_scheduler import SCHEDULER, Item, Queue
from exec.device.protocol import Stream

if TYPE_CHECKING:
    from exec.device.emulated_stream import EmulatedStream


@dataclass(slots=True)
class Branch:
    """What a capture noted of one stream: ``behind`` says how much of each stream it comes after."""

    items: list[Item] = field(default_factory=list)
    num_works: int = 0
    behind: dict[Queue, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Capture:
    """What the streams of a capture are given; it is over when it has no streams."""

    streams: dict[Queue, "EmulatedStream"] = field(default_factory=dict)
    branches: dict[Queue, Branch] = field(default_factory=dict)

    def join(self, stream: "EmulatedStream") -> None:
        """Let ``stream`` be captured as well."""
        stream.capture_of = self
        self.streams[stream.queue] = stream
        self.branches[stream.queue] = Branch()

    def add(self, queue: Queue, item: Item) -> None:
        """Note an item down."""
        branch = self.branches[queue]
        branch.items.append(item)
        branch.num_works += 1
        branch.behind[queue] = branch.num_works

    def record(self, queue: Queue) -> EmulatedEvent:
        """Note an event down."""
        event = EmulatedEvent(queue, capture=self)
        branch = self.branches[queue]
        event.behind = dict(branch.behind)
        branch.items.append(Pass(event))
        return event

    def wait(self, queue: Queue, event: EmulatedEvent) -> None:
        """Note down that an event is waited for."""
        branch = self.branches[queue]
        for other, number in event.behind.items():
            branch.behind[other] = max(number, branch.behind.get(other, 0))
        branch.items.append(Await(event))

    def release(self) -> None:
        """Let the streams go; the capture has ended."""
        for stream in self.streams.values():
            stream.capture_of = None
        self.streams.clear()

    def check_joined(self, origin: Queue) -> None:
        """Raise if ``origin`` did not wait for all that was captured."""
        behind = self.branches[origin].behind
        for queue, branch in self.branches.items():
            if behind.get(queue, 0) < branch.num_works:
                raise RuntimeError("a capture must wait for all streams that joined it")


class EmulatedGraph:
    """Work that is enqueued as a whole: each branch is ordered with the others by events only."""

    def __init__(self, origin: Queue, branches: dict[Queue, Branch]) -> None:
        self._origin = origin
        self._branches = {queue: tuple(branch.items) for queue, branch in branches.items()}
        self._last: EmulatedEvent | None = None

    def launch(self, stream: Stream) -> None:
        """Enqueue it; it begins when its last launch is done, on whatever stream that was."""
        check_not_capturing("launch a graph")
        target: Queue = stream.queue  # type: ignore[attr-defined]
        with SCHEDULER.changed:
            end = EmulatedEvent(target)
            queues = {
                queue: target if queue is self._origin else Queue(target.owner)
                for queue in self._branches
            }
            events: dict[EmulatedEvent, EmulatedEvent] = {}
            before: list[Item] = [] if self._last is None else [Await(self._last)]
            SCHEDULER.put(target, before)
            # Each branch begins by waiting for another one, and so for the origin's.
            for queue, items in self._branches.items():
                SCHEDULER.put(queues[queue], [_anew(item, queues, events) for item in items])
            SCHEDULER.put(target, [Pass(end)])
            self._last = end


def _anew(
    item: Item, queues: dict[Queue, Queue], events: dict[EmulatedEvent, EmulatedEvent]
) -> Item:
    """Return ``item`` for one launch, which has queues and events of its own."""
    if not isinstance(item, Pass | Await):
        return item
    if item.event not in events:
        events[item.event] = EmulatedEvent(queues[item.event.queue])
    return type(item)(events[item.event])
