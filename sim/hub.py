"""Hubs: links whose flows meet nobody elsewhere, and so have equal rates whoever comes and goes.

All flows of a hub have sent equally much since any moment. With V the bytes that each of them could
have sent since the hub began, a flow of n bytes that comes at V ends at V + n. That end never changes
again, though the time at which V gets there does: a heap knows who ends first, and coming and going
take a logarithm of the number of flows, where rates found anew take as many steps as there are flows.

Source: A. Demers, S. Keshav and S. Shenker, "Analysis and simulation of a fair queueing algorithm",
Proc. ACM SIGCOMM 1989 (their round number R is V in bytes).
"""

import math
from collections.abc import Collection
from heapq import heapify, heappop, heappush

from sim.links import Flow, Link

LEAST = 8
"""How many flows a hub has at first: of fewer, rates are found as fast."""


class Hub:
    """The flows that share ``link`` evenly, and do not meet others elsewhere."""

    __slots__ = ("_count", "_ends", "_first", "_limit", "_sent", "_since_s", "link")

    def __init__(self, link: Link, flows: Collection[Flow], now_s: float) -> None:
        self.link, self._since_s, self._sent = link, now_s, 0.0
        self._first: Flow | None = None  # the only one with an event
        self._ends = [(flow.left, place, flow) for place, flow in enumerate(flows)]
        self._count = len(self._ends)
        self._limit = min(map(self._limit_of, flows))
        heapify(self._ends)

    @property
    def is_even(self) -> bool:
        """Whether no flow is held up elsewhere, so that all have equal shares of the link."""
        return self.link.bytes_per_s <= self._limit * len(self._ends)

    def takes(self, flow: Flow) -> bool:
        """Say whether ``flow``, which has come to the link, meets no others elsewhere."""
        return all(each is self.link or len(each.flows) == 1 for each in flow.path.links)

    def join(self, flow: Flow, now_s: float) -> None:
        """Let ``flow`` share from ``now_s`` on."""
        self._go_on(now_s)
        self._count += 1
        self._limit = min(self._limit, self._limit_of(flow))
        heappush(self._ends, (self._sent + flow.left, self._count, flow))

    def leave(self, flow: Flow, now_s: float) -> bool:
        """Let ``flow`` go, which has ended; say whether any are left."""
        self._go_on(now_s)
        if self._ends[0][2] is flow:  # else it had nothing to send
            self._sent = heappop(self._ends)[0]
            self._first = None
        return bool(self._ends)

    def first(self, now_s: float) -> tuple[Flow, float]:
        """Return who ends first, and when; it alone is to have an event."""
        self._go_on(now_s)
        end, _, flow = self._ends[0]
        if self._first is not None:
            self._first.event = 0
        self._first = flow
        left = max(0.0, end - self._sent)
        return flow, now_s + left * len(self._ends) / self.link.bytes_per_s

    def dissolve(self, now_s: float) -> None:
        """Tell all flows what is left of them; they have no rates then."""
        self._go_on(now_s)
        for end, _, flow in self._ends:
            flow.left, flow.rate, flow.since_s = max(0.0, end - self._sent), 0.0, now_s
            flow.event = 0

    def _limit_of(self, flow: Flow) -> float:
        elsewhere = (link.bytes_per_s for link in flow.path.links if link is not self.link)
        return min(flow.path.limit, *elsewhere, math.inf)

    def _go_on(self, now_s: float) -> None:
        self._sent += self.link.bytes_per_s / len(self._ends) * (now_s - self._since_s)
        self._since_s = now_s


def hub_of(links: Collection[Link], flows: Collection[Flow], now_s: float) -> Hub | None:
    """Return the hub of ``flows``, which alone are on ``links`` and do not end now, if they are one."""
    link = max(links, key=lambda each: len(each.flows))
    if len(link.flows) < max(LEAST, len(flows)) or math.isinf(link.bytes_per_s):
        return None
    if any(len(each.flows) > 1 for each in links if each is not link):
        return None
    for flow in flows:
        flow.go_on(now_s)
    hub = Hub(link, flows, now_s)
    if not hub.is_even or not all(flow.left for flow in flows):
        return None
    for flow in flows:
        flow.event = 0
    return hub
