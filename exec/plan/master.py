"""Master and workers: rank 0 hands out the weights, and averages what the workers make of them.

The master does not train. Every H steps each worker returns its whole state, weighted by the
samples it has seen: all of it through the master's node, as a sequential round trip to one worker
after the other, or as a broadcast and a reduce.

Source: R. McDonald, K. Hall and G. Mann, "Distributed training strategies for the structured
perceptron", NAACL 2010, section 4 (iterative parameter mixing).
"""

from collections.abc import Iterator
from dataclasses import replace

from exec.plan.layout import layout_of
from exec.plan.options import PlanOptions
from exec.plan.passes import passes
from exec.plan.rounds import StepOfRound, plan_rounds
from exec.plan.segment import Segment
from exec.plan.strategy import Strategy
from exec.plan.writer import Writer, trainer_roles, update
from exec.program.mesh import Axis, Mesh
from exec.program.ops import (
    Accumulate,
    Collective,
    CollectiveKind,
    Lane,
    Op,
    Receive,
    Repeat,
    Scale,
    Send,
    Wait,
)
from exec.program.peers import At, Part, Shift
from exec.program.program import Program, Role
from exec.workload import Workload

_MODEL_TAG, _STATE_TAG = 3, 4
_ONE = range(1)


def plan_master(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return the steps of an epoch; an epoch ends with the average on the master."""
    workers = range(1, mesh.dp)
    is_round_trip = options.strategy is Strategy.MASTER_ROUND_TRIP
    hand_out = _receive_model if is_round_trip else _broadcast
    hand_in = _send_state if is_round_trip else _reduce

    def plan(step: StepOfRound) -> Program:
        def ops(stage: Writer) -> Iterator[Op]:
            whole = Part("param", 0, stage.layout.num_parameters)
            if step.is_first:
                yield from hand_out(whole)
            yield from passes(stage)
            yield update(stage)
            if step.is_last:
                yield Wait(Lane.COMM, update(stage).id)
                yield Scale(whole, step.round.share(len(workers), stage.place), step.round.samples)
                yield from hand_in(whole)

        part = replace(workload, global_batch=step.batch)
        roles = trainer_roles(
            part, mesh, options, ops, trainers=workers, also_split=step.round.batch, is_local=True
        )
        return Program(
            mesh,
            workload.itemsize,
            (_master(workload, mesh, step, is_round_trip=is_round_trip), *roles),
            workers,
        )

    return plan_rounds(num_samples, workload.global_batch, options.average_every, plan)


def has_average(program: Program) -> bool:
    """Say whether the master has the average of the workers' states when ``program`` is done."""
    return any(
        isinstance(op, Receive | Collective) and op.id == "state" for op in program.roles[0].ops
    )


def _master(workload: Workload, mesh: Mesh, step: StepOfRound, *, is_round_trip: bool) -> Role:
    size = layout_of(workload.network, mesh, 0, 0).num_parameters
    whole = Part("param", 0, size)
    holds = (whole, Part("scratch", 0, size)) if is_round_trip and mesh.dp > 2 else (whole,)
    ops: list[Op] = []
    if is_round_trip:
        if step.is_first:
            ops += _send_model(whole, mesh.dp - 1)
        if step.is_last:
            ops += _receive_states(whole, mesh.dp - 1)
    else:
        if step.is_first:
            ops += _broadcast(whole)
        if step.is_last:
            ops += [Scale(whole, 0, 1), *_reduce(whole)]
    nbytes = sum(part.size for part in holds) * workload.itemsize
    return Role("master", _ONE, _ONE, _ONE, tuple(ops), holds=holds, nbytes=nbytes)


def _send_model(whole: Part, num_workers: int) -> list[Op]:
    body = Send("model", whole, Shift(Axis.DP, 1, 1), _MODEL_TAG), Wait(Lane.COMM, "model")
    return [Repeat(num_workers, body)]


def _receive_model(whole: Part) -> list[Op]:
    return [
        Receive("model", whole, At(Axis.DP, 0), _MODEL_TAG),
        Wait(Lane.COMPUTE, "model"),
    ]


def _send_state(whole: Part) -> list[Op]:
    return [Send("state", whole, At(Axis.DP, 0), _STATE_TAG), Wait(Lane.COMM, "state")]


def _receive_states(whole: Part, num_workers: int) -> list[Op]:
    """Put the first state in the place of the master's own weights, and add the others."""
    scratch = replace(whole, buffer="scratch")
    more: list[Op] = []
    if num_workers > 1:
        body = Receive("state", scratch, Shift(Axis.DP, 2, 1), _STATE_TAG), Accumulate(whole, scratch)  # fmt: skip
        more = [Repeat(num_workers - 1, body)]
    return [Receive("state", whole, At(Axis.DP, 1), _STATE_TAG), *more]


def _broadcast(whole: Part) -> list[Op]:
    return [
        Collective("model", CollectiveKind.BROADCAST, whole, Axis.DP),
        Wait(Lane.COMPUTE, "model"),
    ]


def _reduce(whole: Part) -> list[Op]:
    return [
        Collective("state", CollectiveKind.REDUCE, whole, Axis.DP),
        Wait(Lane.COMPUTE, "state"),
    ]
