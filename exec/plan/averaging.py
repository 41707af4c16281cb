"""Periodic averaging: replicas train on their own, and average their weights every H steps.

Each replica divides its gradient by its own share of the batch, and counts in the average by the
samples it has seen, so that with plain SGD and H = 1 the average is the synchronous update.
Velocities stay with their replica.

Source: S. U. Stich, "Local SGD converges fast and communicates little", ICLR 2019, algorithm 1.
"""

from collections.abc import Iterator
from dataclasses import replace

from exec.plan.options import PlanOptions
from exec.plan.passes import passes
from exec.plan.rounds import StepOfRound, plan_rounds
from exec.plan.segment import Segment
from exec.plan.writer import Writer, allreduce, finish_sends, trainer_roles, update
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Lane, Op, Scale, Wait
from exec.program.peers import Part
from exec.program.program import Program
from exec.workload import Workload


def plan_averaging(
    workload: Workload, mesh: Mesh, options: PlanOptions, num_samples: int
) -> tuple[Segment, ...]:
    """Return the steps of an epoch; an epoch ends with an average."""

    def plan(step: StepOfRound) -> Program:
        def ops(stage: Writer) -> Iterator[Op]:
            yield from passes(stage)
            yield update(stage)
            if step.is_last and mesh.dp > 1:
                yield from _average(stage, step)
            yield from finish_sends(stage)

        part = replace(workload, global_batch=step.batch)
        roles = trainer_roles(part, mesh, options, ops, also_split=step.round.batch, is_local=True)
        return Program(mesh, workload.itemsize, tuple(roles))

    return plan_rounds(num_samples, workload.global_batch, options.average_every, plan)


def _average(stage: Writer, step: StepOfRound) -> Iterator[Op]:
    whole = Part("param", 0, stage.layout.num_parameters)
    yield Wait(Lane.COMM, update(stage).id)
    yield Scale(whole, step.round.share(stage.mesh.dp, stage.place), step.round.samples)
    yield allreduce(stage, "average", whole, Axis.DP)
    yield Wait(Lane.COMPUTE, "average")
