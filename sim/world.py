"""The world of a simulation: what every bound op does to the ranks, the network and the clock.

A verb returns True where its lane must wait; whoever it waits for lets it go on: a message that
arrives, another lane, or the clock. Lanes that go on at the same moment share one alarm.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any, cast

from exec.program.mesh import Axis
from exec.program.ops import (
    Acquire,
    Collective,
    Grant,
    Release,
)
from exec.program.program import Program
from exec.program.timeline import Span
from sim.bound_ops import (
    NONE,
    Await,
    Bound,
    BoundRole,
    End,
    Post,
    Sum,
    Take,
    Taken,
    Work,
    Works,
)
from sim.clock import Clock
from sim.costs import Costs
from sim.links import Flow, Path
from sim.network import Network
from sim.ranks import ENDED, Connection, Lane, Message, Rank
from sim.spans import spans_of

Verb = Callable[[Lane, Any, int], bool]
Steps = Sequence[tuple[range, Sequence[tuple[Verb, object, Bound]]]]
"""The iterations of each loop, and for each op in it how it is done, on what, and its source."""
_Moment = tuple[list[Flow], list[tuple[float, Lane]]]
"""What is due at a time: messages whose ends are foreseen then, and lanes that go on.

Lanes do so in the order in which they began what ends then, messages in that in which they began.
"""

_event, _began_s = attrgetter("event"), itemgetter(0)


class World:
    """All ranks of ``program``, and what they share."""

    def __init__(
        self, program: Program, costs: Costs, clock: Clock, network: Network, *, keeps_spans: bool
    ) -> None:  # fmt: skip
        self.program, self.costs, self.clock, self.network = program, costs, clock, network
        self.keeps_spans = keeps_spans
        self.ranks: list[Rank] = []
        self.now_s = 0.0
        self.last_s = 0.0  # when something ended last
        self.spans: list[Span] = []
        self.arrivals: list[int] = []  # of the rank that grants tickets
        self._alarms: dict[float, _Moment] = {}  # by time
        self._look_s = math.inf  # when the network is looked at next
        self._meetings: dict[tuple[Axis, int, str], list[Lane]] = {}  # those who are there
        self._verbs: dict[type, Verb] = {
            Work: self._work, Works: self._works, Sum: self._sum, Post: self._post, Take: self._take, Taken: self._keep,
            Await: self._await, End: self._end, Collective: self._meet, Grant: self._grant,
            Acquire: self._acquire, Release: self._release,
        }  # fmt: skip

    def steps(self, role: BoundRole) -> list[Steps]:
        """Return what the lanes of ``role`` do, with the verb of each op."""
        return [
            [(range(loop.count), [(self._verbs[type(each.verb)], each.verb, each) for each in loop.body])
             for loop in loops]
            for loops in role.lanes
        ]  # fmt: skip

    def play(self, lane: Lane, steps: Steps) -> Iterator[None]:
        """Do ``steps`` turn by turn, and yield wherever ``lane`` must wait."""
        rank = lane.rank
        while not rank.is_over:
            for iterations, body in steps:
                for k in iterations:
                    for do, what, bound in body:
                        if do(lane, what, k):
                            start_s = self.now_s
                            yield
                            if self.keeps_spans and self.now_s > start_s:
                                self.spans += spans_of(rank, bound, start_s, self.now_s)
            rank.num_busy -= 1
            if rank.num_busy:
                yield
            else:
                self._end_turn(lane)

    def wake(self, time_s: float) -> None:
        """Let happen what is due at ``time_s``: messages arrive, and lanes go on."""
        self.now_s = max(self.now_s, time_s)
        messages, lanes = self._alarms.pop(time_s)
        arrived = self.network.end_foreseen(messages) if messages else []
        is_looked_at = time_s >= self._look_s
        if is_looked_at:
            self._look_s = math.inf
            arrived = sorted(arrived + self.network.advance(time_s), key=_event)
        if arrived:
            self._arrive(arrived)
        if is_looked_at:
            self._look_by(self.network.next_s)
        if len(lanes) > 1:
            lanes.sort(key=_began_s)
        for _, lane in lanes:
            lane.go_on()

    def _at(self, time_s: float) -> "_Moment":
        """Return what happens at ``time_s``, to add to it."""
        moment = self._alarms.get(time_s)
        if moment is None:
            moment = self._alarms[time_s] = ([], [])
            self.clock.set_alarm(time_s)
        return moment

    def _look_by(self, time_s: float) -> None:
        """See to it that what the network does at ``time_s`` is not missed."""
        if time_s < self._look_s:
            self._look_s = time_s
            self._at(time_s)

    def _send(self, path: Path, message: Message) -> None:
        if self.network.send_along(self.now_s, path, message):
            self._at(message.end_s)[0].append(message)
        else:
            self._look_by(self.network.next_s)

    def _arrive(self, flows: list[Flow]) -> None:
        messages = cast("list[Message]", flows)
        self.last_s = self.now_s
        for message in messages:
            message.has_arrived = True
        for message in messages:
            if message.receiver is not None:
                message.receiver.go_on()
            if message.waiting is not None:
                for lane in message.waiting:
                    lane.go_on()

    def _end_turn(self, last: Lane) -> None:
        """Let all lanes of a rank begin its next turn, now that the ``last`` one is through."""
        rank = last.rank
        rank.turn += 1
        rank.begin_turn()
        self.last_s = self.now_s
        for lane in rank.lanes:
            if lane is not last:
                lane.go_on()

    def _take_s(self, lane: Lane, seconds: float) -> bool:
        if seconds:
            self._at(self.now_s + seconds)[1].append((self.now_s, lane))
        return seconds > 0

    def _work(self, lane: Lane, op: Work, _: int) -> bool:
        if not op.is_paced:
            return self._take_s(lane, op.seconds)
        seconds = op.seconds * lane.rank.pace
        lane.rank.compute_s += seconds
        return self._take_s(lane, seconds)

    def _works(self, lane: Lane, op: Works, _: int) -> bool:
        rank = lane.rank
        began_s = time_s = self.now_s
        for seconds, is_paced in op.parts:
            if is_paced:
                seconds *= rank.pace  # noqa: PLW2901  # so many times longer
                rank.compute_s += seconds
            if seconds:
                began_s = time_s
                time_s += seconds
        if time_s > self.now_s:
            self._at(time_s)[1].append((began_s, lane))
            return True
        return False

    def _sum(self, lane: Lane, op: Sum, k: int) -> bool:
        size = op.size_of(lane.rank.number, k)
        seconds = op.known.get(size)
        if seconds is None:
            seconds = op.known[size] = op.seconds_of(size)
        return self._take_s(lane, seconds)

    def _post(self, lane: Lane, op: Post, k: int) -> bool:
        rank, slot = lane.rank, op.slot
        connection = rank.places[op.place] if op.place >= 0 else None
        if connection is None:
            connection = self._connection(rank, op, k)
        nbytes = op.nbytes if op.nbytes >= 0 else op.nbytes_of(rank.number, k)
        known = connection.paths.get(nbytes)
        if known is None:
            known = connection.paths[nbytes] = self._path(rank, connection.dest, nbytes)
        path, is_held = known
        message = Message(rank.number, rank.ticket)
        if slot >= 0:
            awaited = rank.board[slot]
            if awaited is not None and awaited.source < 0:
                message.waiting = awaited.waiting
            rank.board[slot] = message
        if not connection.dest.gives(op.tag, message) and is_held:
            message.held = path
            return False
        self._send(path, message)
        return False

    def _connection(self, rank: Rank, op: Post, k: int) -> Connection:
        """Return the connection to whom ``rank`` sends, and put it in its place if it has one."""
        dest = op.to(rank.number, k) if op.answers < 0 else rank.senders[op.answers]
        connection = rank.connections.get(dest)
        if connection is None:
            connection = rank.connections[dest] = Connection(self.ranks[dest])
        if op.place >= 0:
            rank.places[op.place] = connection
        return connection

    def _path(self, source: Rank, dest: Rank, nbytes: int) -> tuple[Path, bool]:
        transfer = self.costs.transfer(nbytes, source.number, dest.number)
        is_held = self.costs.waits_for_receive(nbytes, source.number, dest.number)
        return self.network.path(transfer), is_held

    def _take(self, lane: Lane, op: Take, k: int) -> bool:
        rank = lane.rank
        source = op.source(rank.number, k)
        message = rank.found(op.tag, source)
        if message is None:
            rank.wanting, rank.wanted_tag, rank.wanted_source = lane, op.tag, source
            return True
        rank.taken = message
        if message.has_arrived:
            return False
        message.receiver = lane
        if message.held is not None:
            self._send(message.held, message)
        return True

    def _keep(self, lane: Lane, op: Taken, _: int) -> bool:
        rank = lane.rank
        if op.slot >= 0:
            rank.senders[op.slot] = rank.taken.source
        if op.is_recorded:
            self.arrivals.append(rank.taken.source)
        if op.has_ticket:
            rank.ticket = rank.taken.ticket
        return False

    def _await(self, lane: Lane, op: Await, _: int) -> bool:
        board = lane.rank.board
        awaited = board[op.slot]
        if awaited is None:
            awaited = board[op.slot] = Message(NONE, NONE)
        if awaited.has_arrived:
            return False
        if awaited.waiting is None:
            awaited.waiting = []
        awaited.waiting.append(lane)
        return True

    def _end(self, lane: Lane, op: End, _: int) -> bool:
        board = lane.rank.board
        awaited, board[op.slot] = board[op.slot], ENDED
        if awaited is not None:
            for each in awaited.waiting or ():
                each.go_on()
        return False

    def _meet(self, lane: Lane, op: Collective, _: int) -> bool:
        mesh, number = self.program.mesh, lane.rank.number
        size = op.block or mesh.size(op.axis)
        first = mesh.coordinate(number, op.axis) // size * size
        key = (op.axis, mesh.moved(number, op.axis, first), op.id)
        there = self._meetings.setdefault(key, [])
        there.append(lane)
        if len(there) == size:
            del self._meetings[key]
            took_s = self.costs.library_s(op, self.program.itemsize, number)
            self._at(self.now_s + took_s)[1].extend((self.now_s, each) for each in there)
        return True

    def _grant(self, lane: Lane, _op: Grant, _: int) -> bool:
        granted = len(self.program.trainers) + lane.rank.turn
        lane.rank.ticket = granted if granted < self.program.tickets else NONE
        return False

    def _acquire(self, lane: Lane, op: Acquire, _: int) -> bool:
        self.clock.acquire(lane.rank.number, op.name, lane.go_on)
        return True

    def _release(self, lane: Lane, op: Release, _: int) -> bool:
        self.clock.release(lane.rank.number, op.name)
        return False
