"""Programs in SimGrid: ``python3 simgrid_oracle.py``, one JSON description a line, one time a line.

It is run with the Python that has SimGrid's bindings (3.32, Debian's python3-simgrid) and imports
nothing of ours. A description has ``ranks`` (the speed of each, in flop/s, and the ops of each of
its lanes), ``links`` (bytes/s by name), ``routes`` (by "source-destination"), and
``latency_in_links``. An op is one of

    ["compute", flops]  ["mark", id]  ["wait", id]  ["receive", id, source, tag]
    ["send", id, destination, tag, nbytes, latency_s, bytes_per_s or null, is_held]

A message is a communication of SimGrid's between two actors of its own, that first sleeps for the
latency (or leaves it to a link that does nothing else), and then waits until no earlier message of
the same two ranks is under way. A message that is held waits for its receive before all that.
SimGrid is told to leave out what a plain fluid model has not: its TCP model, cross-traffic of
acknowledgements, factors on latency and bandwidth, and the weight of a link's bandwidth.
"""

import json
import os
import signal
import sys
from collections import defaultdict, deque
from heapq import heappop, heappush
from itertools import count

from simgrid import (  # type: ignore[import-not-found]
    Actor,
    Engine,
    LinkInRoute,
    Mailbox,
    NetZone,
    this_actor,
)

SETTINGS = (
    "network/model:CM02",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/weight-S:0",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
)


class Event:
    """Something that happens once, and that any number of actors may wait for."""

    def __init__(self) -> None:
        self.has_happened, self.waiters, self.number = False, [], 0

    def happen(self) -> None:
        self.has_happened = True
        for actor in self.waiters:
            actor.resume()

    def wait(self) -> None:
        if not self.has_happened:
            self.waiters.append(Actor.self())
            this_actor.suspend()


kept: list = []  # so that nothing of SimGrid's is freed while it runs


def simulated_s(what: dict) -> float:
    """Return the time of ``what``."""
    engine = Engine(["oracle", "--log=root.thresh:critical"])
    for setting in SETTINGS:
        Engine.set_config(setting)
    zone = NetZone.create_full_zone("all")
    speeds = [each["speed"] for each in what["ranks"]]
    hosts = [zone.create_host(f"rank{rank}", speed) for rank, speed in enumerate(speeds)]
    beside = [zone.create_host(f"beside{rank}", speed) for rank, speed in enumerate(speeds)]
    links = {name: zone.create_link(name, rate).seal() for name, rate in what["links"].items()}
    for pair, route in what["routes"].items():
        source, dest = map(int, pair.split("-"))
        way = [LinkInRoute(links[name]) for name in route["links"]]
        if what["latency_in_links"]:
            late = zone.create_link(f"late{pair}", 1e15)  # for its latency only
            way.append(LinkInRoute(late.set_latency(route["latency_s"]).seal()))
        zone.add_route(hosts[source].netpoint, hosts[dest].netpoint, None, None, way, False)
    zone.seal()
    mail: dict = defaultdict(lambda: defaultdict(deque))
    news: dict = defaultdict(list)
    waiting: dict = defaultdict(list)
    under_way: set = set()
    numbers = count()
    finish_s = 0.0

    def carry(source: int, message: list, events: list, box: Mailbox) -> None:
        _, _, dest, _, nbytes, latency_s, rate, is_held = message
        sent, posted, arrived = events
        sent.wait()
        number = sent.number
        if is_held:
            posted.wait()
        if not what["latency_in_links"]:
            this_actor.sleep_for(latency_s)
        # Of those whose latencies end together the first sent is the first: SimGrid wakes them in
        # any order, so all have to be there before one goes.
        channel, turn = (source, dest), Event()
        heappush(waiting[channel], (Engine.clock, number, turn))
        this_actor.yield_()
        if channel not in under_way:
            under_way.add(channel)
            heappop(waiting[channel])[2].happen()
        turn.wait()
        comm = box.put_init(0, nbytes)
        kept.append(comm)
        if rate is not None:
            comm.set_rate(rate)
        comm.wait()
        if waiting[channel]:
            heappop(waiting[channel])[2].happen()
        else:
            under_way.remove(channel)
        arrived.happen()

    def do(rank: int, ops: list, ended: dict) -> None:
        nonlocal finish_s
        for op in ops:
            kind, id = op[0], op[1]
            if kind == "compute":
                this_actor.execute(id)
            elif kind == "mark":
                ended.setdefault(id, Event()).happen()
            elif kind == "wait":
                ended.setdefault(id, Event()).wait()
            elif kind == "send":
                sent, posted, arrived = op[-1]
                ended[id] = arrived
                mail[op[2]][rank, op[3]].append((arrived, posted))
                for each in news.pop(op[2], ()):  # who is woken in vain waits anew
                    each.happen()
                sent.number = next(numbers)
                sent.happen()
            else:
                _, _, source, tag = op
                while not mail[rank][source, tag]:
                    arrival = Event()
                    news[rank].append(arrival)
                    arrival.wait()
                arrived, posted = mail[rank][source, tag].popleft()
                posted.happen()
                arrived.wait()
                ended.setdefault(id, Event()).happen()
        finish_s = max(finish_s, Engine.clock)

    for rank, each in enumerate(what["ranks"]):
        for op in (op for ops in each["lanes"] for op in ops if op[0] == "send"):
            events, box = [Event(), Event(), Event()], Mailbox.by_name(f"message{len(kept)}")
            kept.append(box)
            Actor.create("carrier", hosts[rank], carry, rank, list(op), events, box)
            Actor.create("taker", hosts[op[2]], box.get)
            op.append(events)
    for rank, each in enumerate(what["ranks"]):
        ended: dict = {}
        # A host for each lane: sums do not slow compute down.
        for host, ops in zip((hosts[rank], beside[rank]), each["lanes"], strict=False):
            Actor.create(f"rank{rank}", host, do, rank, ops, ended)
    engine.run()
    return finish_s


if __name__ == "__main__":
    for line in sys.stdin:
        # An engine runs once in a process.
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reader)
            signal.alarm(60)  # a deadlock must not hang the test
            os.write(writer, f"{simulated_s(json.loads(line))!r}\n".encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            print(answer.read().strip() or "failed", flush=True)
        os.waitpid(child, 0)
