"""Parameter servers: the weights lie on a few ranks, shared out evenly, and workers push gradients.

Synchronous servers add the gradients of all workers before they answer. Asynchronous ones answer
each worker at once, with whatever weights there are by then: a slow worker holds nobody up, but
gradients are *stale* by the updates that came between. There a worker takes a ticket, one share
of a batch, after the other, as fast as it can; the last server hands them out with its answers.

Source: M. Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014;
J. Dean et al., "Large scale distributed deep networks", NIPS 2012, section 4.1 (Downpour SGD).
"""

from collections.abc import Iterator
from dataclasses import replace

from exec.errors import UsageError
from exec.plan.layout import layout_of
from exec.plan.options import PlanOptions
from exec.plan.passes import passed, passes
from exec.plan.segment import Segment
from exec.plan.writer import Writer, trainer_roles, update_op
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Grant,
    Lane,
    Mark,
    Op,
    Receive,
    Repeat,
    Send,
    Wait,
)
from exec.program.peers import AnyRank, At, Part, Sender, Shift, split_start
from exec.program.program import Program, Role
from exec.workload import Workload

_PUSH_TAG, _PULL_TAG = 5, 6


def plan_server(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return the synchronous steps of an epoch."""
    batch = workload.global_batch
    full, last = divmod(num_samples, batch)
    sizes = [(full, batch)] * (full > 0) + [(1, last)] * (last > 0)
    return tuple(
        Segment(_synchronous(replace(workload, global_batch=size), mesh, options), times, size)
        for times, size in sizes
    )


def plan_async_server(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return an epoch of tickets, cut where ranks are to meet, and those of what is left over.

    A ticket is one worker's share of a batch, and its gradient is divided by the batch, so that a
    sample moves the weights as far as in a synchronous step. The last, smaller batch has tickets
    of its own, divided by its own size.
    """
    workers, batch = mesh.dp - options.servers, workload.global_batch
    rest = num_samples % batch
    sizes = list(_tickets(num_samples - rest, -(-batch // workers), options.pause_every * workers))
    found = [(batch, *size) for size in sizes]
    found += [(rest, *size) for size in _tickets(rest, -(-rest // workers), 0)]
    most = 1 << (24 if workload.itemsize == 4 else 53)  # whole numbers that a parameter can hold
    if (count := max(tickets for _, _, tickets, _ in found)) > most:
        raise UsageError(f"async_server must have at most {most} tickets an epoch, got {count}; use a larger batch")  # fmt: skip
    return tuple(
        Segment(
            _asynchronous(replace(workload, global_batch=divisor), mesh, options, tickets, size),
            times,
            tickets * size,
        )
        for divisor, times, tickets, size in found
    )


def _tickets(samples: int, share: int, run: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(times, tickets, samples each)`` that take ``samples`` in shares, ``run`` at a time."""
    if not samples:
        return
    full, last = divmod(samples, share)
    run = min(run or full, full)
    for times, tickets, size in ((full // run, run, share), (1, full % run, share), (1, 1, last)):
        if tickets and size:
            yield times, tickets, size


def _synchronous(workload: Workload, mesh: Mesh, options: PlanOptions) -> Program:
    workers = range(options.servers, mesh.dp)
    shards = _shards(workload, mesh, options)

    def ops(stage: Writer) -> Iterator[Op]:
        yield from passes(stage)
        yield from _push(stage, shards)
        yield from _pull(shards)

    trainers = trainer_roles(workload, mesh, options, ops, trainers=workers)
    roles = [_without_velocity(role, workload) for role in trainers]
    servers = [
        _server(workload, server, start, stop, _serve_all(workload, server, mesh.dp, options, start, stop),
                scratch=len(workers) > 1)
        for server, (start, stop) in enumerate(shards)
    ]  # fmt: skip
    return Program(mesh, workload.itemsize, (*servers, *roles), workers)


def _asynchronous(
    workload: Workload, mesh: Mesh, options: PlanOptions, tickets: int, samples: int
) -> Program:
    workers = range(options.servers, mesh.dp)
    shards = _shards(workload, mesh, options)
    size = shards[-1][1]

    def ops(stage: Writer) -> Iterator[Op]:
        yield from passes(stage)
        yield from _push(stage, shards)
        yield from _pull([*shards[:-1], (shards[-1][0], size + 1)])

    part = replace(workload, global_batch=samples * len(workers))
    trainers = trainer_roles(part, mesh, options, ops, trainers=workers)
    roles = []
    for trainer in trainers:
        role = _with_ticket(_without_velocity(trainer, workload), workload)
        until = f"pull.{options.servers - 1}"
        roles.append(replace(role, samples=workload.global_batch, until=until))
    servers = []
    for server, (start, stop) in enumerate(shards):
        is_last = stop == size
        ops_of = _serve_one(workload, start, stop, is_last=is_last)
        role = replace(_server(workload, server, start, stop, ops_of), times=tickets)
        servers.append(_with_ticket(role, workload) if is_last else role)
    return Program(mesh, workload.itemsize, (*servers, *roles), workers, tickets)


def _shards(workload: Workload, mesh: Mesh, options: PlanOptions) -> list[tuple[int, int]]:
    """Return which parameters each server has."""
    size, count = layout_of(workload.network, mesh, 0, 0).num_parameters, options.servers
    return [(split_start(size, count, i), split_start(size, count, i + 1)) for i in range(count)]


def _push(stage: Writer, shards: list[tuple[int, int]]) -> Iterator[Op]:
    yield Wait(Lane.COMM, passed(stage))
    for server, (start, stop) in enumerate(shards):
        yield Send(f"push.{server}", Part("grad", start, stop), At(Axis.DP, server), _PUSH_TAG)


def _pull(shards: list[tuple[int, int]]) -> Iterator[Op]:
    for server, (start, stop) in enumerate(shards):
        yield Receive(f"pull.{server}", Part("param", start, stop), At(Axis.DP, server), _PULL_TAG)
    for server in range(len(shards)):
        yield Wait(Lane.COMM, f"push.{server}")
    yield Wait(Lane.COMPUTE, f"pull.{len(shards) - 1}")


def _serve_all(
    workload: Workload, server: int, dp: int, options: PlanOptions, start: int, stop: int
) -> Iterator[Op]:
    """Receive and add all gradients, in the order of ranks; update; answer in the same order."""
    first, count = options.servers, dp - options.servers
    grad, param, scratch = (Part(name, start, stop) for name in ("grad", "param", "scratch"))
    yield Receive("push", grad, At(Axis.DP, first), _PUSH_TAG)
    if count > 1:
        body = (
            Receive("push", scratch, Shift(Axis.DP, first - server + 1, 1), _PUSH_TAG),
            Accumulate(grad, scratch),
        )
        yield Repeat(count - 1, body)
    yield Mark("pushed")
    yield Wait(Lane.COMPUTE, "pushed")
    update = update_op(workload, 0, stop - start, param)
    yield update
    yield Wait(Lane.COMM, update.id)
    yield Repeat(count, (Send("pull", param, Shift(Axis.DP, first - server, 1), _PULL_TAG),))
    yield Wait(Lane.COMM, "pull")


def _serve_one(workload: Workload, start: int, stop: int, *, is_last: bool) -> Iterator[Op]:
    """Receive whoever's gradient, update, and answer; the last server adds the next ticket."""
    yield Receive("push", Part("grad", start, stop), AnyRank(), _PUSH_TAG)
    yield Wait(Lane.COMPUTE, "push")
    update = update_op(workload, 0, stop - start, Part("param", start, stop))
    yield update
    yield Wait(Lane.COMM, update.id)
    if is_last:
        yield Grant(Part("param", stop, stop + 1))
    yield Send("pull", Part("param", start, stop + is_last), Sender("push"), _PULL_TAG)
    yield Wait(Lane.COMM, "pull")


def _server(
    workload: Workload, server: int, start: int, stop: int, ops: Iterator[Op], *, scratch: bool = False
) -> Role:  # fmt: skip
    names = ["param", "grad"] + ["velocity"] * workload.has_momentum + ["scratch"] * scratch
    holds = tuple(Part(name, start, stop) for name in names)
    nbytes = len(names) * (stop - start) * workload.itemsize
    one = range(1)
    return Role(f"server{server}", range(server, server + 1), one, one, tuple(ops), holds=holds, nbytes=nbytes)  # fmt: skip


def _without_velocity(role: Role, workload: Workload) -> Role:
    """Return ``role`` of a worker: the servers update, so they hold the velocities."""
    kept = tuple(part for part in role.holds if part.buffer != "velocity")
    freed = sum(part.size for part in role.holds) - sum(part.size for part in kept)
    return replace(role, holds=kept, nbytes=role.nbytes - freed * workload.itemsize)


def _with_ticket(role: Role, workload: Workload) -> Role:
    """Return ``role`` with one more element after its parameters: the ticket."""
    param, *others = role.holds
    holds = (replace(param, stop=param.stop + 1), *others)
    return replace(role, holds=holds, nbytes=role.nbytes + workload.itemsize)
