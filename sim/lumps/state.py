"""What lumps are: their lanes, the messages between them, and the ways that these go.

All ranks of a lump have done and do the same at the same time. A message goes from each rank of one
lump to one rank of another, or of the same, and so stands for as many.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from exec.program.peers import Peer
from sim.arrays.pieces import Bools, Ints
from sim.lumps.code import Code, Step

NONE = -1


@dataclass(slots=True, eq=False)
class Lane:
    """Where a lane of ``lump`` is: next at ``at`` in round ``k`` of ``loop``; and what lets it go on.

    That is to be ``is_ready``, the clock at ``alarm_s``, a slot that it ``awaits`` and what was
    sent in it, the others that it ``meets``, or a message of ``wants``: tag, and from whom.
    """

    lump: "Lump"
    index: int
    loop: int = 0
    k: int = 0
    at: int = 0
    is_ready: bool = False
    alarm_s: float = 0.0
    alarm: int = NONE  # the number of that event
    awaits: int = NONE
    awaited: "Message | None" = None
    meets: tuple[object, ...] | None = None
    wants: tuple[int, Ints] | None = None  # of each rank the one that it receives from


@dataclass(slots=True, eq=False)
class Message:
    """What each of ``source`` sent: ``dests`` in the order of the senders, ``sources`` of receivers.

    ``receiver`` is the lane of ``dest`` that waits for it. It ``is_held`` until it is received.
    """

    source: "Lump"
    dest: "Lump"
    tag: int
    nbytes: int
    dests: Ints
    sources: Ints
    has_arrived: bool = False
    receiver: int = NONE
    is_taken: bool = False
    is_held: bool = False
    flow: "Flow | None" = None


@dataclass(slots=True, eq=False)
class Link:
    """A link and those like it: who is on each, and how many each of these stands for there."""

    bytes_per_s: float
    flows: dict["Flow", int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Channel:
    """From each rank of a lump to one of ``dests``: one message has it, others wait."""

    dests: Ints
    taken: "Flow | None" = None
    flows: dict["Flow", None] = field(default_factory=dict)  # under way
    waiting: deque["Flow"] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Flow:
    """A message under way: ``left`` bytes at ``since_s``, and its ``rate`` from then on.

    ``event_s`` is when it starts, or ends, unless that is not foreseen.
    """

    message: Message
    channel: Channel
    nbytes: float
    limit: float
    links: list[tuple[Link, int]]
    left: float = 0.0
    rate: float = 0.0
    since_s: float = 0.0
    is_sharing: bool = False
    event: int = 0
    event_s: float | None = None


@dataclass(slots=True, eq=False)
class Way:
    """Whom each rank of a lump sends to, while ``dest`` is what it was in its ``version``."""

    dest: "Lump"
    version: int
    dests: Ints
    sources: Ints
    channel: Channel


@dataclass(slots=True, eq=False)
class Lump:
    """Ranks that cannot differ yet: their ``members`` in order, which play ``codes``."""

    members: Ints
    codes: tuple[Code, ...]
    slowness: float
    lanes: list[Lane] = field(default_factory=list)
    board: list["Message | bool"] = field(
        default_factory=list
    )  # by slot: what was sent, or whether it has ended
    mail: dict[int, list[Message]] = field(default_factory=dict)  # by tag, not taken
    messages: dict[Message, None] = field(default_factory=dict)  # sent or received, and not over
    channels: dict[bytes, Channel] = field(default_factory=dict)
    ways: dict[tuple[Peer, int], Way] = field(default_factory=dict)
    sizes: dict[tuple[Step, int], int] = field(default_factory=dict)  # of chunks, by round
    named: dict[tuple[Peer, int], Ints] = field(default_factory=dict)  # ranks, by round
    version: int = 0
    compute_s: float = 0.0
    turn: int = 0
    num_busy: int = 0
    is_over: bool = False

    @property
    def code(self) -> Code:
        """What all members do next, and no more than that."""
        return self.codes[0]

    def part(self, is_it: Bools) -> "Lump":
        """Return the members where ``is_it`` says so, with lanes of their own; messages are left out."""
        members = self.members[is_it]
        own = replace(self, members=members, lanes=[], board=list(self.board), mail={}, messages={},
                      channels={}, ways={}, sizes={}, named={}, version=0)  # fmt: skip
        own.lanes = [replace(lane, lump=own) for lane in self.lanes]
        return own
