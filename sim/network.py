"""A network of links on which flows share bandwidth max-min fairly, in exact event times.

A transfer waits out its latency, then is a flow over all links of its route at once. A flow's rate
is as high as it can be without taking from one that has no more: what *progressive filling* gives,
which raises all rates together, and lets a flow rest once one of its links is full or its own
limit is reached. Whenever a flow starts or ends, the rates of those that share links with it,
directly or through others, are found anew, but at a hub (:mod:`sim.hub`), where a clock of bytes
tells as much; all others go on undisturbed. No step in time is assumed: the next event is always the next start or end, and each ends exactly one flow.

Transfers with the same ``channel`` go one after another in the order in which their latencies
end, as the messages of one connection do; those of different channels share.

A link may have a token bucket: what a rest has saved up in those of all links of its way, a flow
sends at once when it starts. They fill at what their link could carry and does not.

Faster or fewer flows need not make the others faster: on several links a flow that ends lets
another grow, which may take from a third.

That such a fluid model is close to TCP for large messages is what P. Velho,
L. M. Schnorr, H. Casanova and A. Legrand measured, "On the validity of flow-level TCP network
models for grid and cloud simulations", ACM Trans. Model. Comput. Simul. 23 (2013); it is that of
H. Casanova, A. Giersch, A. Legrand, M. Quinson and F. Suter, "Versatile, scalable, and accurate
simulation of distributed applications and platforms", J. Parallel Distrib. Comput. 74 (2014).
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from sim.hub import Hub, hub_of
from sim.links import Flow, Link, Path, fair_rates, spend, together


@dataclass(frozen=True, slots=True)
class Transfer:
    """``nbytes`` over the links of ``route``, at most at ``bytes_per_s``, after ``latency_s``."""

    route: tuple[str, ...]
    nbytes: float
    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    channel: Hashable = None


@dataclass(frozen=True, slots=True)
class Load:
    """From ``time_s`` on, all flows of ``link`` together have the rate ``bytes_per_s``."""

    time_s: float
    link: str
    bytes_per_s: float


class Network:
    """The flows of a network whose links have the bandwidths that ``bytes_per_s`` tells by name.

    ``burst_nbytes`` are those of the links' token buckets, full at first. Whoever drives it calls
    :meth:`advance` at ``next_s``, and :meth:`send` at will. ``loads`` are kept if asked for.

    The end of a transfer that finds its links free is *foreseen*: it is the only event, until
    another transfer comes to one of its links. Then its start is an event too, unless it is over.
    """

    def __init__(
        self, bytes_per_s: Callable[[str], float], burst_nbytes: Callable[[str], float] | None = None,
        *, keeps_loads: bool = False,
    ) -> None:  # fmt: skip
        self.bytes_per_s, self.burst_nbytes = bytes_per_s, burst_nbytes
        self.now_s = 0.0
        self.loads: list[Load] | None = [] if keeps_loads else None
        self._foresees = not keeps_loads and burst_nbytes is None
        self._links: dict[str, Link] = {}
        self._channels: dict[Hashable, Link] = {}
        self._events: list[tuple[float, int, Flow]] = []  # starts and ends, a heap
        self._count = 0
        self._changed: dict[Link, None] = {}  # whose flows are to have new rates
        self._moved: dict[Hub, None] = {}  # where others came or went

    @property
    def next_s(self) -> float:
        """When the next flow starts or ends; infinite if none does."""
        events = self._events
        while events and events[0][2].event != events[0][1]:
            heappop(events)
        return events[0][0] if events else math.inf

    def path(self, transfer: Transfer) -> Path:
        """Return the path of ``transfer``, for any number of sends."""
        links = tuple(map(self._link, transfer.route))
        channel = None
        if transfer.channel is not None:
            channel = self._channels.get(transfer.channel)
            if channel is None:
                channel = self._channels[transfer.channel] = Link("", math.inf)
        return Path(transfer.nbytes, transfer.latency_s, transfer.bytes_per_s, links, channel)

    def send(self, now_s: float, transfer: Transfer) -> Flow:
        """Begin ``transfer`` at ``now_s``; :meth:`advance` returns the flow, too, when it ends."""
        flow = Flow()
        if self.send_along(now_s, self.path(transfer), flow):
            heappush(self._events, (flow.end_s, flow.event, flow))
        return flow

    def send_along(self, now_s: float, path: Path, flow: Flow) -> bool:
        """Begin ``flow``, the transfer of ``path``, at ``now_s``; say whether its end is foreseen.

        Then it is no event of the network's: its driver calls :meth:`end_foreseen` at its ``end_s``.
        """
        start_s = (max(self.now_s, now_s)) + path.latency_s
        flow.path, flow.since_s, flow.is_sharing = path, start_s, False
        if self._foresees:
            for link in path.held:
                if link.foreseen is not None or link.num_others:
                    break
            else:
                for link in path.held:
                    link.foreseen = flow
                flow.is_foreseen = True
                flow.end_s = start_s + path.alone_s
                flow.event = self._count = self._count + 1
                return True
        flow.is_foreseen = False
        for link in path.held:
            if link.foreseen is not None:
                self._reconsider(link.foreseen)
            link.num_others += 1
        self._schedule(flow, start_s)
        return False

    def end_foreseen(self, flows: Iterable[Flow]) -> list[Flow]:
        """End those of ``flows``, whose ends were foreseen and are now, of which this still holds."""
        ended = []
        for flow in flows:
            if flow.is_foreseen:
                for link in flow.path.held:
                    link.foreseen = None
                ended.append(flow)
        return ended

    def advance(self, to_s: float) -> list[Flow]:
        """Let all happen that is due up to ``to_s``; return what ended, in order.

        ``to_s`` must not be later than ``next_s`` unless nothing is due before it.
        """
        events, ended = self._events, list[Flow]()
        while events and events[0][0] <= to_s:
            time_s, number, flow = heappop(events)
            if flow.event == number:
                self.now_s = max(self.now_s, time_s)  # what was not foreseen after all comes late
                if flow.is_foreseen:
                    ended += self.end_foreseen((flow,))
                elif flow.is_sharing:
                    self._end(flow)
                    ended.append(flow)
                else:
                    self._arrive(flow)
            if (self._changed or self._moved) and self.next_s > self.now_s:
                self._share()
        self.now_s = max(self.now_s, to_s)
        return ended

    def _link(self, name: str) -> Link:
        link = self._links.get(name)
        if link is None:
            burst = 0.0 if self.burst_nbytes is None else self.burst_nbytes(name)
            link = Link(name, self.bytes_per_s(name), burst_nbytes=burst, tokens=burst)
            self._links[name] = link
        return link

    def _schedule(self, flow: Flow, time_s: float) -> None:
        self._count += 1
        flow.event = self._count
        heappush(self._events, (time_s, self._count, flow))

    def _reconsider(self, flow: Flow) -> None:
        """Foresee the end of ``flow`` no longer: another transfer has come to its links."""
        flow.is_foreseen = False
        for link in flow.path.held:
            link.foreseen = None
            link.num_others += 1
        if flow.since_s > self.now_s:
            self._schedule(flow, flow.since_s)
            return
        self._schedule(flow, flow.end_s)
        flow.is_sharing, flow.left, flow.rate = True, flow.path.nbytes, flow.path.rate
        if flow.path.channel is not None:
            flow.path.channel.is_taken = True
        for link in flow.path.links:
            link.flows[flow] = None

    def _arrive(self, flow: Flow) -> None:
        """Let ``flow``, whose latency is over, start or wait for its channel."""
        channel = flow.path.channel
        if channel is not None and channel.is_taken:
            channel.waiting.append(flow)
            return
        if channel is not None:
            channel.is_taken = True
        self._start(flow)

    def _start(self, flow: Flow) -> None:
        flow.is_sharing, flow.since_s = True, self.now_s
        flow.left, flow.rate = flow.path.nbytes, 0.0
        if self.burst_nbytes is not None:
            flow.left -= spend(flow, self.now_s)
        is_alone = True
        for link in flow.path.links:
            link.flows[flow] = None
            is_alone = is_alone and len(link.flows) == 1
        if not flow.left:
            self._schedule(flow, self.now_s)
        elif is_alone:
            self._set(flow, flow.path.rate)
            self._note(flow.path.links)
        else:
            flow.event = 0  # until it has a rate
            hub = next((link.hub for link in flow.path.links if link.hub is not None), None)
            if hub is not None and hub.takes(flow):
                hub.join(flow, self.now_s)
                self._moved[hub] = None
            else:
                self._changed.update(dict.fromkeys(flow.path.links))

    def _end(self, flow: Flow) -> None:
        if self.burst_nbytes is not None:
            for link in flow.path.links:
                link.fill(self.now_s)
        for link in flow.path.links:
            del link.flows[flow]
            if link.hub is not None:
                if link.hub.leave(flow, self.now_s):
                    self._moved[link.hub] = None
                else:
                    link.hub = None
            elif link.flows:
                self._changed[link] = None
        for link in flow.path.held:
            link.num_others -= 1
        self._note(flow.path.links)
        channel = flow.path.channel
        if channel is not None:
            if channel.waiting:
                self._start(channel.waiting.popleft())
            else:
                channel.is_taken = False

    def _share(self) -> None:
        """Find the rates anew of all flows that share links with those that have changed."""
        changed, moved = self._changed, self._moved
        self._changed, self._moved = {}, {}
        for hub in moved:
            if hub.link.hub is hub and not hub.is_even:
                changed[hub.link] = None
        if changed:
            links, flows = together(changed)
            for link in links:
                if link.hub is not None:
                    link.hub.dissolve(self.now_s)
                    link.hub = None
            new = hub_of(links, flows, self.now_s) if self._foresees else None
            if new is not None:
                new.link.hub = new
                moved[new] = None
            else:
                for flow, rate in zip(flows, fair_rates(links, flows), strict=True):
                    if rate != flow.rate:
                        self._set(flow, rate)
                self._note(links)
        for hub in moved:
            if hub.link.hub is hub:
                self._schedule(*hub.first(self.now_s))

    def _set(self, flow: Flow, rate: float) -> None:
        if self.burst_nbytes is not None:
            for link in flow.path.links:
                link.fill(self.now_s)
        flow.go_on(self.now_s)
        flow.rate = rate
        self._schedule(flow, self.now_s + (flow.left / rate if flow.left else 0.0))

    def _note(self, links: Iterable[Link]) -> None:
        if self.loads is not None:
            for link in links:
                rate = sum(flow.rate for flow in link.flows)
                self.loads.append(Load(self.now_s, link.name, rate))


def completions_s(
    transfers: Sequence[tuple[float, Transfer]], bytes_per_s: Callable[[str], float]
) -> list[float]:
    """Return when each of ``(start_s, transfer)`` ends, on links of the bandwidths ``bytes_per_s``."""
    network = Network(bytes_per_s)
    places = {network.send(start_s, each): i for i, (start_s, each) in enumerate(transfers)}
    ends_s = [0.0] * len(transfers)
    while (at_s := network.next_s) < math.inf:
        for flow in network.advance(at_s):
            ends_s[places[flow]] = at_s
    return ends_s
