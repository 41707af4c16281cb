"""What a network is made of: links, the paths of transfers over them, and the flows under way."""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim.fair import max_min

if TYPE_CHECKING:
    from sim.hub import Hub


@dataclass(slots=True, eq=False)
class Link:
    """A link; or a channel, whose bandwidth is infinite: one flow has it, others wait."""

    name: str
    bytes_per_s: float
    flows: dict["Flow", None] = field(default_factory=dict)  # a set in order of arrival
    foreseen: "Flow | None" = None  # alone: its end is known
    num_others: int = 0  # under way unforeseen: in their latency, waiting, or sharing
    is_taken: bool = False
    burst_nbytes: float = 0.0  # what its bucket can hold
    tokens: float = 0.0  # what it held at ``filled_s``
    filled_s: float = 0.0
    waiting: deque["Flow"] = field(default_factory=deque)
    hub: "Hub | None" = None  # of its flows

    def fill(self, now_s: float) -> None:
        """Fill the bucket up to ``now_s``, while the flows' rates are still those since then."""
        room = self.bytes_per_s - sum(flow.rate for flow in self.flows)
        gained = max(0.0, room) * (now_s - self.filled_s)
        self.tokens = min(self.burst_nbytes, self.tokens + gained)
        self.filled_s = now_s


@dataclass(slots=True, eq=False)
class Path:
    """A transfer with its links looked up; alone on them it has ``rate`` and takes ``alone_s``."""

    nbytes: float
    latency_s: float
    limit: float
    links: tuple[Link, ...]
    channel: Link | None
    rate: float = field(init=False)
    alone_s: float = field(init=False)
    held: tuple[Link, ...] = field(init=False)  # the links, and the channel

    def __post_init__(self) -> None:
        self.rate = self.limit
        for link in self.links:
            self.rate = min(self.rate, link.bytes_per_s)
        self.alone_s = self.nbytes / self.rate if self.nbytes else 0.0
        self.held = self.links if self.channel is None else (*self.links, self.channel)


class Flow:
    """A transfer along ``path``: ``left`` bytes at ``since_s``, and its ``rate`` from then on.

    While it is foreseen it starts, or has started, at ``since_s`` and ends at ``end_s``. Who sends
    messages makes a kind of flow of them.
    """

    __slots__ = ("end_s", "event", "is_foreseen", "is_sharing", "left", "path", "rate", "since_s")

    path: Path
    end_s: float
    event: int  # the number of its latest event; earlier ones are void
    is_foreseen: bool
    is_sharing: bool  # its latency is over, and its channel free
    left: float
    rate: float
    since_s: float

    def go_on(self, now_s: float) -> None:
        """Send at the rate until ``now_s``."""
        if self.rate:
            self.left = max(0.0, self.left - self.rate * (now_s - self.since_s))
        self.since_s = now_s


def spend(flow: Flow, now_s: float) -> float:
    """Return how many bytes of ``flow`` pass at once, and take so many tokens of its links."""
    for link in flow.path.links:
        link.fill(now_s)
    found = min([flow.left, *(link.tokens for link in flow.path.links)])
    for link in flow.path.links:
        link.tokens -= found
    return found


def fair_rates(links: Collection[Link], flows: Collection[Flow]) -> list[float]:
    """Return the max-min fair rates of ``flows``, which alone are on ``links``."""
    place = {link: i for i, link in enumerate(links)}
    routes = [[place[link] for link in flow.path.links] for flow in flows]
    limits = [flow.path.limit for flow in flows]
    return max_min(routes, [link.bytes_per_s for link in links], limits)


def together(some: Iterable[Link]) -> tuple[dict[Link, None], dict[Flow, None]]:
    """Return ``some`` links and all that share flows with them, directly or through others, and the flows."""
    links = dict.fromkeys(some)
    flows: dict[Flow, None] = {}
    reached = list(links)
    while reached:
        for flow in reached.pop().flows:
            if flow not in flows:
                flows[flow] = None
                for link in flow.path.links:
                    if link not in links:
                        links[link] = None
                        reached.append(link)
    return links, flows
