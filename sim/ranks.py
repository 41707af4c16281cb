"""What simulated ranks are: their lanes, the messages between them, and what they wait for.

What a rank does with all this is :mod:`sim.world`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from exec.program.program import Program
from sim.bound_ops import NONE, BoundRole
from sim.links import Flow, Path


class Lane:
    """What is left to do on one lane of ``rank``; ``go_on`` does it up to where it must wait."""

    __slots__ = ("go_on", "rank")

    go_on: Callable[[], None]

    def __init__(self, rank: "Rank") -> None:
        self.rank = rank

    def do(self, steps: Iterator[None]) -> None:
        """Have ``steps`` to do, which yields where the lane must wait."""
        self.go_on = partial(next, steps, None)


class Message(Flow):
    """A message under way; or, without a ``source``, what has ended or has not begun.

    ``receiver`` is the lane whose receive has taken it, ``waiting`` are those that wait until what
    was sent may be overwritten. A message is ``held`` until its receive is posted.
    """

    __slots__ = ("has_arrived", "held", "receiver", "source", "ticket", "waiting")

    def __init__(self, source: int, ticket: int, has_arrived: bool = False) -> None:
        self.source, self.ticket, self.has_arrived = source, ticket, has_arrived
        self.receiver: Lane | None = None
        self.held: Path | None = None
        self.waiting: list[Lane] | None = None


ENDED = Message(NONE, NONE, has_arrived=True)


@dataclass(slots=True)
class Connection:
    """The way from one rank to ``dest``: by bytes, the path of a message and if it must be held."""

    dest: "Rank"
    paths: dict[int, tuple[Path, bool]] = field(default_factory=dict)


class Rank:
    """One rank: what its lanes tell each other, and the ticket it holds or has granted."""

    __slots__ = (
        "board", "bound", "compute_s", "connections", "is_over", "lanes", "mail", "num_busy", "number",
        "pace", "paces", "places", "senders", "slowness", "taken", "ticket", "tickets", "turn",
        "wanted_source", "wanted_tag", "wanting",
    )  # fmt: skip

    def __init__(
        self,
        program: Program,
        bound: BoundRole,
        number: int,
        slowness: float,
        paces: list[float],
    ) -> None:
        self.bound, self.number, self.slowness = bound, number, slowness
        self.paces = paces
        self.pace, self.compute_s, self.turn = 1.0, 0.0, 0
        self.ticket = program.mesh.coordinates(number)[0] - program.trainers.start
        self.tickets = program.tickets
        self.lanes = [Lane(self) for _ in bound.lanes]
        self.senders = [NONE] * bound.num_senders
        self.connections: dict[int, Connection] = {}  # by destination
        self.places: list[Connection | None] = [None] * bound.num_places
        self.mail: dict[int, deque[Message]] = {}  # by tag: sent, and no receive has taken them
        self.wanting: Lane | None = None  # whose receive is posted, and no message was there
        self.wanted_tag = self.wanted_source = NONE
        self.taken = ENDED  # what was received last
        self.begin_turn()

    def begin_turn(self) -> None:
        """Begin the role's ops anew, if they are to be done once more."""
        role = self.bound.role
        has_more = 0 <= self.ticket < self.tickets if role.until else self.turn < role.times
        self.is_over = not (self.lanes and has_more)
        self.board: list[Message | None] = [None] * self.bound.num_slots
        self.pace = self.slowness * self.paces[self.turn % len(self.paces)]
        self.num_busy = len(self.lanes)

    def gives(self, tag: int, message: Message) -> bool:
        """Hand ``message`` to the receive that is posted for it, or keep it; say which."""
        if (
            self.wanting is not None
            and self.wanted_tag == tag
            and self.wanted_source in (NONE, message.source)
        ):
            message.receiver, self.wanting, self.taken = self.wanting, None, message
            return True
        queue = self.mail.get(tag)
        if queue is None:
            queue = self.mail[tag] = deque()
        queue.append(message)
        return False

    def found(self, tag: int, source: int) -> Message | None:
        """Take out the first message of ``tag`` from ``source``, or from any, if one was sent."""
        queue = self.mail.get(tag)
        if not queue:
            return None
        if source < 0 or queue[0].source == source:
            return queue.popleft()
        for place, message in enumerate(queue):
            if message.source == source:
                del queue[place]
                return message
        return None
