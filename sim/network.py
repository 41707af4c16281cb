"""A network of links on which flows share bandwidth max-min fairly, in exact event times.

A transfer waits out its latency, then is a flow over all links of its route at once. A flow's rate
is as high as it can be without taking from one that has no more: what *progressive filling* gives,
which raises all rates together, and lets a flow rest once one of its links is full or its own
limit is reached. Whenever a flow starts or ends, the rates of those that share links with it,
directly or through others, are found anew; all others go on undisturbed. No step in time is
assumed: the next event is always the next start or end, and each ends exactly one flow.

Transfers with the same ``channel`` go one after another in the order in which their latencies
end, as the messages of one connection do; those of different channels share.

Faster or fewer flows need not make the others faster: on several links a flow that ends lets
another grow, which may take from a third.

Source: D. Bertsekas and R. Gallager, "Data Networks", 2nd ed., Prentice-Hall 1992, section 6.5.2
(max-min fairness). That such a fluid model is close to TCP for large messages is what P. Velho,
L. M. Schnorr, H. Casanova and A. Legrand measured, "On the validity of flow-level TCP network
models for grid and cloud simulations", ACM Trans. Model. Comput. Simul. 23 (2013); it is that of
H. Casanova, A. Giersch, A. Legrand, M. Quinson and F. Suter, "Versatile, scalable, and accurate
simulation of distributed applications and platforms", J. Parallel Distrib. Comput. 74 (2014).
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, TypeVar

Token = TypeVar("Token")


@dataclass(frozen=True, slots=True)
class Transfer:
    """``nbytes`` over the links of ``route``, at most at ``bytes_per_s``, after ``latency_s``."""

    route: tuple[str, ...]
    nbytes: float
    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    channel: Hashable = None


@dataclass(slots=True, eq=False)
class _Link(Generic[Token]):
    name: str
    bytes_per_s: float
    flows: dict["_Flow[Token]", None] = field(default_factory=dict)  # a set in order of arrival


@dataclass(slots=True, eq=False)
class _Flow(Generic[Token]):
    """A transfer under way: ``left`` bytes at ``since_s``, and its ``rate`` from then on."""

    transfer: Transfer
    token: Token
    links: tuple[_Link[Token], ...]
    left: float
    rate: float = 0.0
    since_s: float = 0.0
    is_sharing: bool = False  # its latency is over, and its channel free
    event: int = 0  # the number of its latest event; earlier ones are void


@dataclass(frozen=True, slots=True)
class Load:
    """From ``time_s`` on, all flows of ``link`` together have the rate ``bytes_per_s``."""

    time_s: float
    link: str
    bytes_per_s: float


class Network(Generic[Token]):
    """The flows of a network whose links have the bandwidths that ``bytes_per_s`` tells by name.

    Whoever drives it calls :meth:`advance` at ``next_s``, and :meth:`send` whenever it likes. With
    ``keeps_loads`` it remembers in ``loads`` what its links carried.
    """

    def __init__(self, bytes_per_s: Callable[[str], float], *, keeps_loads: bool = False) -> None:
        self.bytes_per_s = bytes_per_s
        self.now_s = 0.0
        self.loads: list[Load] | None = [] if keeps_loads else None
        self._links: dict[str, _Link[Token]] = {}
        self._events: list[tuple[float, int, _Flow[Token]]] = []  # starts and ends, a heap
        self._count = 0
        self._waiting: dict[
            Hashable, deque[_Flow[Token]]
        ] = {}  # by channel: one has it, these do not

    @property
    def next_s(self) -> float:
        """When the next flow starts or ends; infinite if none does."""
        events = self._events
        while events and events[0][2].event != events[0][1]:
            heappop(events)
        return events[0][0] if events else math.inf

    def send(self, now_s: float, transfer: Transfer, token: Token) -> None:
        """Begin ``transfer`` at ``now_s``; :meth:`advance` returns ``token`` when it ends."""
        links = tuple(map(self._link, transfer.route))
        flow = _Flow(transfer, token, links, transfer.nbytes)
        self._schedule(flow, max(now_s, self.now_s) + transfer.latency_s)

    def advance(self, to_s: float) -> list[Token]:
        """Let all happen that is due up to ``to_s``; return the tokens of what ended, in order.

        ``to_s`` must not be later than ``next_s`` unless nothing is due before it.
        """
        self.now_s = max(self.now_s, to_s)
        ended: list[Token] = []
        changed: dict[_Link[Token], None] = {}
        while self.next_s <= self.now_s:
            flow = heappop(self._events)[2]
            if flow.is_sharing:
                self._end(flow, changed)
                ended.append(flow.token)
            elif flow.transfer.channel is None:
                self._start(flow, changed)
            elif (queue := self._waiting.get(flow.transfer.channel)) is None:
                self._waiting[flow.transfer.channel] = deque()
                self._start(flow, changed)
            else:
                queue.append(flow)
            if self.next_s > self.now_s and changed:
                self._share(changed)
                changed = {}
        return ended

    def _link(self, name: str) -> _Link[Token]:
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = _Link(name, self.bytes_per_s(name))
        return link

    def _schedule(self, flow: _Flow[Token], time_s: float) -> None:
        self._count += 1
        flow.event = self._count
        heappush(self._events, (time_s, self._count, flow))

    def _start(self, flow: _Flow[Token], changed: dict[_Link[Token], None]) -> None:
        flow.is_sharing, flow.since_s = True, self.now_s
        is_alone = True
        for link in flow.links:
            link.flows[flow] = None
            is_alone = is_alone and len(link.flows) == 1
        if not flow.left:
            self._schedule(flow, self.now_s)
        elif is_alone:
            rate = flow.transfer.bytes_per_s
            for link in flow.links:
                rate = min(rate, link.bytes_per_s)
            self._set(flow, rate)
            self._note(flow.links)
        else:
            flow.event = 0  # until it has a rate
            changed.update(dict.fromkeys(flow.links))

    def _end(self, flow: _Flow[Token], changed: dict[_Link[Token], None]) -> None:
        for link in flow.links:
            del link.flows[flow]
            if link.flows:
                changed[link] = None
        self._note(flow.links)
        channel = flow.transfer.channel
        if channel is not None:
            queue = self._waiting[channel]
            if queue:
                self._start(queue.popleft(), changed)
            else:
                del self._waiting[channel]

    def _share(self, changed: Iterable[_Link[Token]]) -> None:
        """Find the rates anew of all flows that share links with those of ``changed``."""
        links = dict.fromkeys(changed)
        flows: dict[_Flow[Token], None] = {}
        reached = list(links)
        while reached:
            for flow in reached.pop().flows:
                if flow not in flows:
                    flows[flow] = None
                    for link in flow.links:
                        if link not in links:
                            links[link] = None
                            reached.append(link)
        capacities = [link.bytes_per_s for link in links]
        place = {link: i for i, link in enumerate(links)}
        routes = [[place[link] for link in flow.links] for flow in flows]
        rates = max_min(routes, capacities, [flow.transfer.bytes_per_s for flow in flows])
        for flow, rate in zip(flows, rates, strict=True):
            if rate != flow.rate:
                self._set(flow, rate)
        self._note(links)

    def _set(self, flow: _Flow[Token], rate: float) -> None:
        if flow.rate:
            flow.left = max(0.0, flow.left - flow.rate * (self.now_s - flow.since_s))
        flow.rate, flow.since_s = rate, self.now_s
        self._schedule(flow, self.now_s + (flow.left / rate if flow.left else 0.0))

    def _note(self, links: Iterable[_Link[Token]]) -> None:
        if self.loads is not None:
            for link in links:
                rate = sum(flow.rate for flow in link.flows)
                self.loads.append(Load(self.now_s, link.name, rate))


def max_min(
    routes: Sequence[Sequence[int]], capacities: Sequence[float], limits: Sequence[float]
) -> list[float]:
    """Return the max-min fair rate of each flow, by progressive filling.

    ``routes`` are the links of each flow, by their places in ``capacities``; ``limits`` are the
    flows' own highest rates.

    >>> max_min([[0], [0, 1], [1]], [1.0, 3.0], [float("inf")] * 3)
    [0.5, 0.5, 2.5]
    """
    rates = [0.0] * len(routes)
    on_link: list[list[int]] = [[] for _ in capacities]
    for flow, route in enumerate(routes):
        for link in route:
            on_link[link].append(flow)
    room = list(capacities)
    num_open = [len(flows) for flows in on_link]
    by_limit = sorted(range(len(routes)), key=limits.__getitem__, reverse=True)
    is_open = [True] * len(routes)
    used = [link for link, capacity in enumerate(capacities) if capacity < math.inf]
    level = 0.0
    while True:
        while by_limit and not is_open[by_limit[-1]]:
            by_limit.pop()
        if not by_limit:
            return rates
        used = [link for link in used if num_open[link]]
        full, share = -1, math.inf
        for link in used:
            if (equal := room[link] / num_open[link]) < share:
                full, share = link, equal
        share = max(level, share)  # the level only rises; roundings must not let it sink
        fixed = []
        while by_limit and limits[by_limit[-1]] <= share:
            fixed.append(by_limit.pop())
        if fixed:
            fixed = [flow for flow in fixed if is_open[flow]]
            level = limits[fixed[-1]]
        else:
            level, fixed = share, [flow for flow in on_link[full] if is_open[flow]]
        for flow in fixed:
            rates[flow] = rate = min(level, limits[flow])
            is_open[flow] = False
            for link in routes[flow]:
                room[link] -= rate
                num_open[link] -= 1


def completions_s(
    transfers: Sequence[tuple[float, Transfer]], bytes_per_s: Callable[[str], float]
) -> list[float]:
    """Return when each of ``(start_s, transfer)`` ends, on links of the bandwidths ``bytes_per_s``."""
    network: Network[int] = Network(bytes_per_s)
    ends_s = [0.0] * len(transfers)
    for place, (start_s, transfer) in enumerate(transfers):
        network.send(start_s, transfer, place)
    while (at_s := network.next_s) < math.inf:
        for place in network.advance(at_s):
            ends_s[place] = at_s
    return ends_s
