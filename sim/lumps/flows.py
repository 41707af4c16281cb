"""The flows of lumps: what :mod:`sim.network` does, once for all messages that a lump sends at once.

A flow waits out its latency, then for its channel; then it shares its links max-min fairly.
"""

from heapq import heappush

import numpy as np

from sim.arrays.pieces import Ints
from sim.costs import Costs
from sim.lumps.rates import lumped_max_min
from sim.lumps.state import Channel, Flow, Lane, Link, Message

Event = tuple[float, int, Flow | Lane]


class Flows:
    """All flows under way. Their starts and ends, and all else that is due, are in ``events``."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.events: list[Event] = []  # a heap
        self.now_s = 0.0
        self._count = 0
        self._links: dict[tuple[str, int], Link] = {}
        self._changed: dict[Link, None] = {}

    def note(self, time_s: float, what: Flow | Lane) -> int:
        """Let ``what`` be due at ``time_s``; return the number of that event."""
        self._count += 1
        heappush(self.events, (time_s, self._count, what))
        return self._count

    def send(self, message: Message, channel: Channel) -> None:
        """Let the messages go, along ``channel``."""
        source, dest = int(message.source.members[0]), int(message.dests[0])
        transfer = self.costs.transfer(message.nbytes, source, dest)
        flow = message.flow = Flow(
            message, channel, transfer.nbytes, transfer.bytes_per_s, self.links_of(message)
        )
        channel.flows[flow] = None
        self._schedule(flow, self.now_s + transfer.latency_s)

    def links_of(self, message: Message) -> list[tuple[Link, int]]:
        """Return the links of ``message``, and how many messages of its lump each carries."""
        source, dest = message.source.members, message.dest.members
        transfer = self.costs.transfer(message.nbytes, int(source[0]), int(message.dests[0]))
        if not transfer.route:
            return []
        up, down = transfer.route
        if up.startswith("rank"):
            places = ((up, "out", int(source[0]), 1), (down, "in", int(dest[0]), 1))
        else:
            places = ((up, "up", *self._on_node(source)), (down, "down", *self._on_node(dest)))
        found = []
        for name, end, first, weight in places:
            link = self._links.get((end, first))
            if link is None:
                link = self._links[end, first] = Link(self.costs.capacity(name))
            found.append((link, weight))
        return found

    def _on_node(self, members: Ints) -> tuple[int, int]:
        """Return the first node of ``members``, and how many of them each has."""
        node = self.costs.fabric.node
        per_node = self.costs.fabric.ranks_per_node
        first = node(int(members[0]))
        return first, int(np.searchsorted(members, (first + 1) * per_node))

    def due(self, flow: Flow) -> bool:
        """Let happen what is due of ``flow``; say whether it has ended."""
        flow.event_s = None
        if flow.is_sharing:
            self._end(flow)
            return True
        if flow.channel.taken is not None:
            flow.channel.waiting.append(flow)
        else:
            self._start(flow)
        return False

    def place(self, flow: Flow) -> None:
        """Put ``flow``, which is a part of another or has become one, where its message goes."""
        for link, _ in flow.links:
            link.flows.pop(flow, None)
        flow.links = self.links_of(flow.message)
        if flow.is_sharing:
            for link, weight in flow.links:
                link.flows[flow] = weight

    def _schedule(self, flow: Flow, time_s: float) -> None:
        flow.event_s = time_s
        flow.event = self.note(time_s, flow)

    def _start(self, flow: Flow) -> None:
        flow.channel.taken = flow
        flow.is_sharing, flow.since_s = True, self.now_s
        flow.left, flow.rate = flow.nbytes, 0.0
        is_alone = True
        for link, weight in flow.links:
            link.flows[flow] = weight
            is_alone = is_alone and len(link.flows) == 1
        if not flow.left:
            self._schedule(flow, self.now_s)
        elif is_alone:
            self._set(flow, min([flow.limit, *(link.bytes_per_s / weight for link, weight in flow.links)]))  # fmt: skip
        else:
            flow.event = 0  # until it has a rate
            self._changed.update((link, None) for link, _ in flow.links)

    def _end(self, flow: Flow) -> None:
        for link, _ in flow.links:
            del link.flows[flow]
            if link.flows:
                self._changed[link] = None
        channel = flow.channel
        del channel.flows[flow]
        channel.taken = None
        if channel.waiting:
            self._start(channel.waiting.popleft())

    def share(self) -> None:
        """Find the rates anew of all flows that share links with those that came or went."""
        if not self._changed:
            return
        links, self._changed = self._changed, {}
        flows = _reached(links)
        place = {link: i for i, link in enumerate(links)}
        routes = [[(place[link], weight) for link, weight in flow.links] for flow in flows]
        rates = lumped_max_min(
            routes, [link.bytes_per_s for link in links], [flow.limit for flow in flows]
        )
        for flow, rate in zip(flows, rates, strict=True):
            if rate != flow.rate:
                self._set(flow, rate)

    def _set(self, flow: Flow, rate: float) -> None:
        if flow.rate:
            flow.left = max(0.0, flow.left - flow.rate * (self.now_s - flow.since_s))
        flow.rate, flow.since_s = rate, self.now_s
        self._schedule(flow, self.now_s + (flow.left / rate if flow.left else 0.0))


def _reached(links: dict[Link, None]) -> list[Flow]:
    """Return the flows on ``links``, and on all that they lead to, which are added."""
    flows: dict[Flow, None] = {}
    reached = list(links)
    while reached:
        for flow in reached.pop().flows:
            if flow not in flows:
                flows[flow] = None
                for link, _ in flow.links:
                    if link not in links:
                        links[link] = None
                        reached.append(link)
    return list(flows)
