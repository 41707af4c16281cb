"""The legality check: every message matched, every group agreed, nobody waiting for ever.

The check does the program's ops without time: a lane moves whenever its next op can be done. If
all lanes reach their end, and no message is left over, every execution does (only a receive from
*any* makes the order matter). Sends are taken as rendezvous, the strictest reading, so a program
that passes needs no buffering anywhere. Where workers take tickets, the order in which this
check serves them is one of many.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from exec.errors import IllegalProgramError
from exec.program.mesh import Axis
from exec.program.ops import (
    Acquire,
    Collective,
    Compute,
    Grant,
    Lane,
    Mark,
    Op,
    Receive,
    Release,
    Save,
    Send,
    Wait,
    lane_of,
)
from exec.program.peers import AnyRank, Part, Rank, Sender
from exec.program.program import Program, Role
from exec.program.text import format_op, format_part

_GRID_COLUMNS = 8
_CELL = 22


@dataclass(slots=True)
class _LaneState:
    rank: int
    lane: Lane
    ops: list[Op]
    position: int = 0

    @property
    def head(self) -> Op | None:
        return self.ops[self.position] if self.position < len(self.ops) else None


@dataclass(slots=True)
class _Message:
    source: int
    send: Send
    ticket: int
    is_taken: bool = False


@dataclass(slots=True)
class _Turns:
    """How often a rank has done its role's ops, and the ticket it holds or has granted."""

    role: Role
    done: int = 0
    ticket: int = 0

    def has_more(self, tickets: int) -> bool:
        """Say whether the ops are to be done once more."""
        if self.role.until:
            return 0 <= self.ticket < tickets
        return self.done < self.role.times


@dataclass(slots=True)
class _State:
    program: Program
    lanes: list[_LaneState]
    turns: list[_Turns]
    mail: dict[tuple[int, int], deque[_Message]] = field(
        default_factory=lambda: defaultdict(deque)
    )  # by (destination, tag)
    done: set[tuple[int, str]] = field(default_factory=set)
    posted: dict[tuple[int, str], list[_Message]] = field(default_factory=lambda: defaultdict(list))
    senders: dict[tuple[int, str], int] = field(default_factory=dict)  # of what was received
    holders: dict[str, int] = field(default_factory=dict)  # by lock
    arrived: dict[tuple[Axis, int, int], dict[int, Collective]] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)  # ranks whose collective has completed


def check_program(program: Program) -> None:
    """Raise :class:`IllegalProgramError`, with the drawn grid, unless ``program`` is legal."""
    _check_roles(program)
    lanes, turns = [], []
    for rank in range(program.mesh.world_size):
        ops = list(program.ops(rank))
        lanes += [
            _LaneState(rank, lane, [op for op in ops if lane_of(op) is lane]) for lane in Lane
        ]
        dp_rank = program.mesh.coordinates(rank)[0]
        turns.append(_Turns(program.role_of(rank), ticket=dp_rank - program.trainers.start))
    state = _State(program, lanes, turns)
    _check_parts(state)
    _check_ids(state)
    for rank in range(program.mesh.world_size):
        if not turns[rank].has_more(program.tickets):
            _lanes_of(state, rank, skip=True)
    moving = True
    while moving:
        moving = False
        for lane in lanes:
            while lane.head is not None and _advance(state, lane, lane.head):
                lane.position += 1
                moving = True
        for rank in range(program.mesh.world_size):
            moving = _begin_again(state, rank) or moving
    stuck = [lane for lane in lanes if lane.head is not None]
    if stuck:
        raise IllegalProgramError(_describe_stuck(state, stuck))
    left = [message for queue in state.mail.values() for message in queue]
    if left:
        first = left[0]
        raise IllegalProgramError(
            f"rank {first.source} sends {first.send.id} (tag {first.send.tag}) to "
            f"{_peer(first.send)}, which never receives it\n{_grid(state, {first.source})}"
        )
    for name, rank in state.holders.items():
        raise IllegalProgramError(f"rank {rank} never releases {name}\n{_grid(state, {rank})}")


def _lanes_of(state: _State, rank: int, *, skip: bool) -> None:
    """Put both lanes of ``rank`` at their first op, or with ``skip`` past their last."""
    for lane in state.lanes[2 * rank : 2 * rank + 2]:
        lane.position = len(lane.ops) if skip else 0


def _begin_again(state: _State, rank: int) -> bool:
    """Let ``rank`` do its ops once more if it is through and has more turns; say whether it does."""
    turns = state.turns[rank]
    lanes = state.lanes[2 * rank : 2 * rank + 2]
    if any(lane.head is not None for lane in lanes) or not turns.has_more(state.program.tickets):
        return False
    turns.done += 1
    if not any(lane.ops for lane in lanes) or not turns.has_more(state.program.tickets):
        return False
    state.done = {key for key in state.done if key[0] != rank}
    for key in [key for key in state.posted if key[0] == rank]:
        del state.posted[key]
    _lanes_of(state, rank, skip=False)
    return True


def _check_roles(program: Program) -> None:
    players = sum(role.num_ranks for role in program.roles)
    played = {rank for role in program.roles for rank in program.ranks_of(role)}
    if players != program.mesh.world_size or played != set(range(program.mesh.world_size)):
        raise IllegalProgramError(
            f"every one of the {program.mesh.world_size} ranks must play exactly one role; "
            f"the roles {', '.join(role.name for role in program.roles)} name {players}"
        )


def _check_parts(state: _State) -> None:
    """Check that what an op moves of a flat buffer is what its role holds."""
    for lane in state.lanes:
        held = {part.buffer: part for part in state.turns[lane.rank].role.holds}
        for i, op in enumerate(lane.ops):
            for part in (getattr(op, name, None) for name in ("part", "into", "source")):
                if not isinstance(part, Part) or part.buffer not in held:
                    continue
                room = held[part.buffer]
                if not room.start <= part.start <= part.stop <= room.stop:
                    lane.position = i
                    raise IllegalProgramError(
                        f"rank {lane.rank} uses {format_part(part)}, but holds {format_part(room)}\n"
                        f"{_grid(state, {lane.rank})}"
                    )


def _check_ids(state: _State) -> None:
    named = Compute | Send | Receive | Collective | Mark | Save
    ids = {(lane.rank, op.id) for lane in state.lanes for op in lane.ops if isinstance(op, named)}
    for lane in state.lanes:
        for i, op in enumerate(lane.ops):
            if isinstance(op, Wait) and (lane.rank, op.id) not in ids:
                lane.position = i
                raise IllegalProgramError(
                    f"rank {lane.rank} waits for {op.id}, which none of its ops is called\n"
                    f"{_grid(state, {lane.rank})}"
                )


def _advance(state: _State, lane: _LaneState, op: Op) -> bool:
    """Do ``op`` if it can be done now; say whether it was."""
    rank = lane.rank
    match op:
        case Wait(_, id):
            if (rank, id) in state.posted:
                return all(message.is_taken for message in state.posted[rank, id])
            return (rank, id) in state.done
        case Send():
            return _post(state, rank, op)
        case Receive():
            return _take(state, rank, op)
        case Collective():
            return _meet(state, rank, op)
        case Compute() | Mark() | Save():
            state.done.add((rank, op.id))
        case Grant():
            turns = state.turns[rank]
            granted = len(state.program.trainers) + turns.done
            turns.ticket = granted if granted < state.program.tickets else -1
        case Acquire(name):
            if name in state.holders:
                return False
            state.holders[name] = rank
        case Release(name):
            if state.holders.pop(name, None) != rank:
                raise IllegalProgramError(
                    f"rank {rank} releases {name}, which it does not hold\n{_grid(state, {rank})}"
                )
    return True


def _post(state: _State, rank: int, op: Send) -> bool:
    message = _Message(rank, op, state.turns[rank].ticket)
    if isinstance(op.peer, Sender):
        if (rank, op.peer.id) not in state.senders:
            raise IllegalProgramError(
                f"rank {rank} answers the sender of {op.peer.id}, which it has not received\n"
                f"{_grid(state, {rank})}"
            )
        dest = state.senders[rank, op.peer.id]
    else:
        assert isinstance(op.peer, Rank)
        dest = op.peer.rank
    if dest == rank:
        raise IllegalProgramError(f"rank {rank} sends {op.id} to itself\n{_grid(state, {rank})}")
    state.mail[dest, op.tag].append(message)
    state.posted[rank, op.id].append(message)
    return True


def _take(state: _State, rank: int, op: Receive) -> bool:
    queue = state.mail[rank, op.tag]
    for message in queue:
        if isinstance(op.peer, AnyRank) or op.peer == Rank(message.source):
            sent, room = message.send.part, op.part
            if sent.stop - sent.start != room.stop - room.start:
                raise IllegalProgramError(
                    f"rank {rank} receives {op.id} of {room.stop - room.start} elements, but rank "
                    f"{message.source} sends {message.send.id} of {sent.stop - sent.start} with tag "
                    f"{op.tag}\n{_grid(state, {rank, message.source})}"
                )
            queue.remove(message)
            message.is_taken = True
            state.done.add((rank, op.id))
            state.senders[rank, op.id] = message.source
            if op.id == state.turns[rank].role.until:
                state.turns[rank].ticket = message.ticket
            return True
    return False


def _meet(state: _State, rank: int, op: Collective) -> bool:
    if rank in state.released:
        state.released.remove(rank)
        state.done.add((rank, op.id))
        return True
    group = state.program.mesh.group(rank, op.axis, op.block)
    present = state.arrived.setdefault((op.axis, group[0], op.block), {})
    present[rank] = op
    for other, theirs in present.items():
        if theirs != op:
            raise IllegalProgramError(
                f"ranks {other} and {rank} are of one {op.axis} group but disagree: "
                f"{format_op(theirs, '')[0]!r} against {format_op(op, '')[0]!r}\n"
                f"{_grid(state, {rank, other})}"
            )
    if len(present) < len(group):
        return False
    state.arrived[op.axis, group[0], op.block] = {}
    state.released.update(set(group) - {rank})
    state.done.add((rank, op.id))
    return True


def _peer(op: Send | Receive) -> str:
    match op.peer:
        case Rank(rank):
            return f"rank {rank}"
        case Sender(id):
            return f"the sender of {id}"
        case _:
            return "any rank"


def _describe_stuck(state: _State, stuck: list[_LaneState]) -> str:
    reasons = []
    for lane in stuck:
        op = lane.head
        match op:
            case Receive():
                reasons.append(
                    f"rank {lane.rank} waits to receive {op.id} (tag {op.tag}) from {_peer(op)}"
                )
            case Wait(_, id):
                reasons.append(f"rank {lane.rank} ({lane.lane}) waits for {id}")
            case Collective():
                group = state.program.mesh.group(lane.rank, op.axis, op.block)
                here = state.arrived.get((op.axis, group[0], op.block), {})
                absent = [rank for rank in group if rank not in here]
                reasons.append(f"rank {lane.rank} waits in {op.kind} {op.id} for ranks {absent}")
            case Acquire(name):
                reasons.append(f"rank {lane.rank} waits for lock {name} of rank {state.holders[name]}")  # fmt: skip
            case _:
                reasons.append(f"rank {lane.rank} cannot do {op}")
    shown = reasons[:8] + (["..."] if len(reasons) > 8 else [])
    listed = "\n  ".join(shown)
    return f"deadlock: {len(stuck)} lanes never end\n  {listed}\n{_grid(state, {lane.rank for lane in stuck})}"


def _grid(state: _State, ranks: set[int]) -> str:
    """Draw what each lane of ``ranks`` did last, and in ``>...<`` the op it stands at."""
    rows = []
    for lane in state.lanes:
        if lane.rank not in ranks or not lane.ops:
            continue
        first = max(0, lane.position - _GRID_COLUMNS + 2)
        cells = []
        for i in range(first, min(first + _GRID_COLUMNS, len(lane.ops))):
            token = _token(lane.ops[i])
            cells.append((f">{token}<" if i == lane.position else f" {token} ").ljust(_CELL))
        rows.append(f"rank {lane.rank:<4d}{lane.lane:<8s}|" + "|".join(cells))
    return "\n".join(rows[:32])


def _token(op: Op) -> str:
    match op:
        case Compute() | Collective() | Mark() | Save():
            text = op.id
        case Send():
            text = f"send {op.id}"
        case Receive():
            text = f"recv {op.id}"
        case Wait(_, id):
            text = f"wait {id}"
        case _:
            text = type(op).__name__.lower()
    return text[: _CELL - 2]
