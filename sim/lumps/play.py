"""The play of lumps: what :mod:`sim.world` does for each rank, once for all ranks that cannot differ.

Before an op is done, all members of the lump must do the same, to ranks of one lump each; where they
do not, lumps are cut until they do, and each does it for itself.
"""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop
from typing import NoReturn

import numpy as np

from exec.program.ops import Collective
from exec.program.program import Program
from sim.arrays.irregular import IrregularError
from sim.arrays.pieces import Ints
from sim.bound_ops import Await, End, Post, Sum, Take, Work, Works
from sim.costs import Costs
from sim.lumps.carry import carry_over
from sim.lumps.code import Loop, Step, next_of
from sim.lumps.flows import Flows
from sim.lumps.peers import Peers
from sim.lumps.split import Partition, nodes_of, refined
from sim.lumps.state import NONE, Channel, Lane, Lump, Message


class Again(Exception):  # noqa: N818 - not an error: it says that lumps were cut, so that what was begun is done anew
    """Lumps have been cut: what was to be done is done anew by each part."""


class Play:
    """A program under way, by the lumps of ``partition``, of which there may be ``most``."""

    def __init__(self, program: Program, costs: Costs, partition: Partition, most: int) -> None:
        self.program, self.costs, self.partition, self.most = program, costs, partition, most
        self.flows = Flows(costs)
        self.last_s = 0.0
        self.peers = Peers(program, partition.lumps, partition.lump_of, nodes_of(costs), self._cut)
        self._ready: deque[Lane] = deque()
        self._running: Lane | None = None
        self._verbs: dict[type, Callable[[Lane, Step, int], bool]] = {
            Work: self._work, Works: self._works, Sum: self._sum, Post: self._post, Take: self._take,
            Await: self._await, End: self._end, Collective: self._meet,
        }  # fmt: skip

    def play(self) -> float:
        """Return when all is done.

        Raises:
            ValueError: ranks wait for each other.
        """
        for lump in list(self.partition.lumps):
            self._begin_turn(lump)
        flows, events, ready = self.flows, self.flows.events, self._ready
        while True:
            while ready:
                lane = ready.popleft()
                lane.is_ready = False
                self._run(lane)
            if not events:
                break
            flows.now_s = now_s = events[0][0]
            while events and events[0][0] <= now_s:
                _, number, what = heappop(events)
                if isinstance(what, Lane):
                    if what.alarm == number:
                        what.alarm = NONE
                        self._go_on(what)
                elif what.event == number and flows.due(what):
                    self._arrive(what.message)
            flows.share()
        if not all(lump.is_over for lump in self.partition.lumps):
            raise ValueError("the program deadlocks; check_program says where")
        return self.last_s

    def _go_on(self, lane: Lane) -> None:
        lane.is_ready = True
        self._ready.append(lane)

    def _run(self, lane: Lane) -> None:
        """Do what is next on ``lane``, up to where it must wait."""
        lump = lane.lump
        self._running = lane
        while True:
            try:
                if len(lump.codes) > 1:
                    self._cut_codes(lump, next_of(lump.codes, lane.index, lane.loop, lane.at))
                loops = lump.code.lanes[lane.index]
                if lane.loop == len(loops):
                    self._end_lane(lane)
                    break
                step = loops[lane.loop].body[lane.at]
                must_wait = self._verbs[type(step.verb)](lane, step, lane.k)
            except Again:
                continue
            self._advance(lane, loops[lane.loop])
            if must_wait:
                break
        self._running = None

    def _advance(self, lane: Lane, loop: Loop) -> None:
        lane.at += 1
        if lane.at == len(loop.body):
            lane.at, lane.k = 0, lane.k + 1
            if lane.k == loop.count:
                lane.k, lane.loop = 0, lane.loop + 1

    def _cut_codes(self, lump: Lump, marks: Sequence[object]) -> None:
        """Cut ``lump`` unless the ``marks`` of its codes are all the same."""
        if len(set(marks)) > 1:
            number = {mark: i for i, mark in enumerate(dict.fromkeys(marks))}
            labels = {id(code): number[mark] for code, mark in zip(lump.codes, marks, strict=True)}
            of_code = np.array([labels.get(id(code), 0) for code in self.partition.codes])
            self._cut(lump, of_code[self.partition.code_of[lump.members]])

    def _cut(self, lump: Lump, labels: Ints) -> NoReturn:
        """Cut ``lump`` by the ``labels`` of its members, and all that must be cut with it."""
        marks = self.partition.closed({lump: refined(labels, labels)})
        parts = self.partition.cut(marks)
        carry_over(parts, marks, self.flows)
        for first, *others in parts.values():
            for lane in (lane for other in others for lane in other.lanes):
                if lane.is_ready:
                    self._ready.append(lane)
                elif first.lanes[lane.index] is self._running:
                    self._go_on(lane)
                if lane.alarm != NONE:
                    lane.alarm = self.flows.note(lane.alarm_s, lane)
        if len(self.partition.lumps) > self.most:
            raise IrregularError(f"more than {self.most} ranks differ")
        raise Again

    def _begin_turn(self, lump: Lump) -> None:
        lump.is_over = not lump.lanes or lump.turn >= lump.codes[0].times
        lump.board = [False] * max(code.num_slots for code in lump.codes)
        lump.num_busy = len(lump.lanes)
        if not lump.is_over:
            for lane in lump.lanes:
                lane.loop = 0
                self._go_on(lane)

    def _end_lane(self, lane: Lane) -> None:
        lump = lane.lump
        self._cut_codes(lump, [code.times for code in lump.codes])
        lump.num_busy -= 1
        if not lump.num_busy:
            lump.turn += 1
            self.last_s = self.flows.now_s
            self._begin_turn(lump)

    def _wait_s(self, lane: Lane, *parts_s: float) -> bool:
        """Let ``lane`` wait for all of ``parts_s``, one after another."""
        end_s = now_s = self.flows.now_s
        for seconds in parts_s:
            end_s += seconds
        if end_s > now_s:
            lane.alarm_s, lane.alarm = end_s, self.flows.note(end_s, lane)
        return end_s > now_s

    def _work(self, lane: Lane, step: Step, _: int) -> bool:
        assert isinstance(step.verb, Work)
        return self._wait_s(lane, self._worked_s(lane, step.verb.seconds, is_paced=step.verb.is_paced))  # fmt: skip

    def _works(self, lane: Lane, step: Step, _: int) -> bool:
        assert isinstance(step.verb, Works)
        return self._wait_s(lane, *(self._worked_s(lane, each, is_paced=paced) for each, paced in step.verb.parts))  # fmt: skip

    def _worked_s(self, lane: Lane, seconds: float, *, is_paced: bool) -> float:
        if not is_paced:
            return seconds
        seconds *= lane.lump.slowness
        lane.lump.compute_s += seconds
        return seconds

    def _sum(self, lane: Lane, step: Step, k: int) -> bool:
        assert isinstance(step.verb, Sum)
        return self._wait_s(lane, step.verb.seconds_of(self.peers.size(lane.lump, step, k)))

    def _post(self, lane: Lane, step: Step, k: int) -> bool:
        post, lump = step.verb, lane.lump
        assert isinstance(post, Post)
        assert step.peer is not None
        nbytes = post.nbytes
        if nbytes < 0:
            nbytes = self.peers.size(lump, step, k) * self.program.itemsize
        way = self.peers.way(lump, step.peer, k)
        dest = way.dest
        receiver = self._receiver(dest, post.tag, way.sources)
        is_held = self.costs.has_limits and self.costs.waits_for_receive(
            nbytes, int(lump.members[0]), int(way.dests[0])
        )
        if not (is_held and receiver is None):
            self.peers.see_channels(lump, way.channel)
        message = Message(lump, dest, post.tag, nbytes, way.dests, way.sources)
        lump.messages[message] = dest.messages[message] = None
        if post.slot >= 0:
            lump.board[post.slot] = message
            for other in lump.lanes:
                if other.awaits == post.slot and other.awaited is None:
                    other.awaited = message
        if receiver is None:
            dest.mail.setdefault(post.tag, []).append(message)
            if is_held:
                message.is_held = True
                return False
        else:
            receiver.wants = None
            message.receiver, message.is_taken = receiver.index, True
        self.flows.send(message, way.channel)
        return False

    def _receiver(self, dest: Lump, tag: int, sources: Ints) -> Lane | None:
        """Return the lane of ``dest`` that waits for what ``sources`` send, if one does."""
        for lane in dest.lanes:
            if lane.wants is not None and lane.wants[0] == tag:
                is_it = lane.wants[1] == sources
                if is_it.all():
                    return lane
                if is_it.any():
                    self._cut(dest, is_it.astype(np.intp))
        return None

    def _take(self, lane: Lane, step: Step, k: int) -> bool:
        take, lump = step.verb, lane.lump
        assert isinstance(take, Take)
        assert step.peer is not None
        sources = self.peers.named(lump, step.peer, k)
        for message in lump.mail.get(take.tag, ()):
            is_it = message.sources == sources
            if is_it.all():
                break
            if is_it.any():
                self._cut(lump, is_it.astype(np.intp))
        else:
            lane.wants = take.tag, sources
            return True
        if message.is_held:
            source = message.source
            channel = source.channels.setdefault(message.dests.tobytes(), Channel(message.dests))
            self.peers.see_channels(source, channel)
            message.is_held = False
            self.flows.send(message, channel)
        lump.mail[take.tag].remove(message)
        message.is_taken = True
        if message.has_arrived:
            del lump.messages[message]
            return False
        message.receiver = lane.index
        return True

    def _arrive(self, message: Message) -> None:
        self.last_s = self.flows.now_s
        message.has_arrived, message.flow = True, None
        source, dest = message.source, message.dest
        if source is not dest or message.is_taken:
            del source.messages[message]
        if source is not dest and message.is_taken:
            del dest.messages[message]
        if message.receiver >= 0:
            self._go_on(dest.lanes[message.receiver])
        for lane in source.lanes:
            if lane.awaited is message:
                self._stop_waiting(lane)

    def _stop_waiting(self, lane: Lane) -> None:
        lane.awaits, lane.awaited = NONE, None
        self._go_on(lane)

    def _await(self, lane: Lane, step: Step, _: int) -> bool:
        assert isinstance(step.verb, Await)
        slot = step.verb.slot
        found = lane.lump.board[slot]
        if isinstance(found, Message):
            if found.has_arrived:
                return False
            lane.awaited = found
        elif found:
            return False
        lane.awaits = slot
        return True

    def _end(self, lane: Lane, step: Step, _: int) -> bool:
        assert isinstance(step.verb, End)
        slot, lump = step.verb.slot, lane.lump
        lump.board[slot] = True
        for other in lump.lanes:
            if other.awaits == slot:
                self._stop_waiting(other)
        return False

    def _meet(self, lane: Lane, step: Step, _: int) -> bool:
        op = step.op
        assert isinstance(op, Collective)
        key = op.axis, op.id

        def lanes_there(lump: Lump) -> list[Lane]:
            return [each for each in lump.lanes if each is lane or each.meets == key]

        others = self.peers.met(lane.lump, op.axis, lambda lump: bool(lanes_there(lump)))
        if not others:
            lane.meets = key
            return True
        took_s = self.costs.library_s(op, self.program.itemsize, int(lane.lump.members[0]))
        for each in (each for lump in others for each in lanes_there(lump)):
            each.meets = None
            if not self._wait_s(each, took_s):
                self._go_on(each)
        return True
