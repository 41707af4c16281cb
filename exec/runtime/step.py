"""One training step of one rank: its program bound to arrays and a transport, then just done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from exec.program.ops import (
    Acquire,
    Collective,
    Compute,
    Lane,
    Mark,
    Op,
    Receive,
    Release,
    Send,
    Wait,
    lane_of,
)
from exec.program.program import Program
from exec.program.timeline import Span
from exec.runtime.buffers import Buffers
from exec.runtime.comm import CommBinder, Queue, Wire
from exec.runtime.kernels import Call, KernelBinder
from exec.runtime.lane import CommLane
from exec.runtime.pacer import Pacer
from exec.transport.protocol import Lock, Transport

WAITING = "wait "


@dataclass(slots=True)
class Step:
    """A bound program: ``run`` does it once.

    ``calls`` is what the compute lane does, in order; the communication lane is looked at
    between them where it could have something to do.
    """

    calls: list[Call]
    names: list[str]
    lane: CommLane

    def run(self) -> None:
        """Do the step."""
        self.lane.reset()
        for call in self.calls:
            call()

    def run_timed(self, spans: list[Span]) -> None:
        """Do the step, and append a span for each op."""
        self.lane.reset()
        self.lane.spans = spans
        clock = perf_counter
        times_s = [clock()]
        for call in self.calls:
            call()
            times_s.append(clock())
        self.lane.spans = None
        spans += [
            Span(self.lane.rank, Lane.COMPUTE, name, start_s, end_s)
            for name, start_s, end_s in zip(self.names, times_s, times_s[1:], strict=False)
        ]


def bind_step(
    program: Program, wire: Wire[Transport], buffers: Buffers, binder: KernelBinder, queue: Queue,
    slowness: float = 1.0, pacer: Pacer | None = None,
) -> Step:  # fmt: skip
    """Return what this rank does of ``program`` in one turn, bound to its arrays.

    With a ``slowness`` above 1 every compute op takes that many times as long as it would; with a
    ``pacer`` it takes the time that this one gives it.
    """
    rank = wire.transport.rank
    ops = list(program.ops(rank))
    comm = CommBinder(wire, buffers, compute_positions(ops), awaited_at_once(program), queue)
    steps = [
        pacer.comm(op, comm.bind(op)) if pacer else comm.bind(op)
        for op in ops
        if lane_of(op) is Lane.COMM
    ]
    lane = CommLane(rank, steps)

    def compute(op: Compute) -> Call:
        call = binder.bind(op)
        return pacer.compute(op, call) if pacer else _slowed(call, slowness)

    calls, names = bind_lanes(ops, lane, wire.locks, compute, comm.wait_sent)
    if pacer:
        calls = pacer.paced_calls(calls, [name.startswith(WAITING) for name in names])
        names = ["begin", *names, "end"]
    return Step(calls, names, lane)


def bind_lanes(
    ops: Sequence[Op], lane: CommLane, locks: Mapping[str, Lock], compute: Callable[[Compute], Call],
    wait_sent: Callable[[str], object],
) -> tuple[list[Call], list[str]]:  # fmt: skip
    """Return what the compute lane does of ``ops``, in order, and what each is called.

    ``lane`` has those of the other lane, and is looked at where it could have something to do.
    """
    calls: list[Call] = []
    names: list[str] = []
    steps, last_of = lane.steps, _last_positions(ops)
    num_computed = 0
    num_ended = 0  # steps of the lane that are certainly done at this point
    lane_ops = [op for op in ops if lane_of(op) is Lane.COMM]
    for op in ops:
        if isinstance(op, Compute):
            if num_ended < len(steps) and steps[num_ended].gate <= num_computed:
                calls.append(partial(lane.poll, num_computed))
                names.append("poll")
            calls.append(compute(op))
            names.append(op.id)
            num_computed += 1
        elif isinstance(op, Acquire):
            calls.append(locks[op.name].acquire)
            names.append(WAITING + op.name)
        elif isinstance(op, Release):
            calls.append(locks[op.name].release)
            names.append("release")
        elif isinstance(op, Wait) and op.lane is Lane.COMPUTE:
            target = last_of[op.id]
            if target >= num_ended:
                calls.append(partial(lane.run_through, target))
                names.append(WAITING + op.id)
                num_ended = target + 1
            if isinstance(lane_ops[target], Send):
                calls.append(partial(wait_sent, op.id))
                names.append(WAITING + op.id)
    if num_ended < len(steps):
        calls.append(partial(lane.run_through, len(steps) - 1))
        names.append(WAITING + "end")
    return calls, names


def _slowed(call: Call, slowness: float) -> Call:
    """Return ``call`` made slower: the core stays busy, as that of a slower node would."""
    if slowness == 1.0:
        return call

    def slow() -> None:
        start_s = perf_counter()
        call()
        now_s = perf_counter()
        end_s = now_s + (slowness - 1.0) * (now_s - start_s)
        while perf_counter() < end_s:
            pass

    return slow


def compute_positions(ops: Sequence[Op]) -> dict[str, int]:
    """Return how many compute ops are behind when each is done."""
    computed = [op.id for op in ops if isinstance(op, Compute)]
    return {id: i + 1 for i, id in enumerate(computed)}


def _last_positions(ops: Sequence[Op]) -> dict[str, int]:
    """Return where in the communication lane each id is done, or if a send, posted."""
    lane_ops = [op for op in ops if lane_of(op) is Lane.COMM]
    return {
        op.id: i
        for i, op in enumerate(lane_ops)
        if isinstance(op, Receive | Collective | Mark | Send)
    }


def awaited_at_once(program: Program) -> set[str]:
    """Return the collectives that no rank can begin while polling.

    That is so if the lane may begin it only after the last compute op before it, and the compute
    lane then waits for it, or for what is behind it on its lane, before it computes again, in every
    role. All ranks then do it in the blocking form, which is faster; MPI does not match a blocking
    with a non-blocking collective (MPI 4.1, section 6.12), so they must agree.
    """
    polled: set[str] = set()
    known: set[str] = set()
    for role in program.roles:
        num_computed, gate = 0, 0
        positions = compute_positions(list(role.ops))
        places = _last_positions(role.ops)
        pending: set[str] = set()
        for op in role.ops:
            match op:
                case Compute():
                    num_computed += 1
                    polled |= pending
                case Wait(Lane.COMM, id):
                    gate = max(gate, positions.get(id, 0))
                case Wait(Lane.COMPUTE, id):
                    pending = {each for each in pending if places[each] > places.get(id, -1)}
                case Collective(id):
                    known.add(id)
                    pending.add(id)
                    if gate < num_computed:
                        polled.add(id)
                case _:
                    pass
    return known - polled
