"""A checkpoint as a program: each rank saves what of the training only it can tell, then all meet.

Which ranks those are is the strategy's:

- a mesh of equal replicas: the first replica; the others hold the same bits. Where they share
  windows, every rank of the first one its slice;
- averaging: every replica, because they differ between two averages;
- master and workers: the workers, for the same reason. Just after a round what counts is the
  average, on the master; it is handed out first, as the next round would do anyway;
- parameter servers: the servers, each its shard; workers pull the weights before they use them;
- shared memory: with windows every rank its chunk; under a lock or none the first rank, or with
  momentum every rank, because velocities are its own.
"""

from collections.abc import Iterator
from dataclasses import replace

from exec.plan.master import has_average
from exec.plan.strategy import LOCKSTEP, MASTERS, SERVERS, SYNCHRONOUS, Strategy
from exec.plan.window import slice_of
from exec.program.mesh import Axis
from exec.program.ops import Collective, CollectiveKind, Lane, Op, Save, Wait
from exec.program.peers import Part, split_start
from exec.program.program import Program, Role

_NOTHING = Part("none", 0, 0)
_SAVED_ONCE = (*LOCKSTEP, Strategy.SHARED_LOCK, Strategy.HOGWILD)


def plan_checkpoint(program: Program, strategy: Strategy) -> Program:
    """Return the program of a checkpoint that follows ``program``, a turn of ``strategy``.

    Its ranks hold what those of ``program`` hold. All meet at the end, along one axis after the
    other, so none goes on before all is on the disk.
    """
    roles = [cut for role in program.roles for cut in _saving_apart(program, role, strategy)]
    is_handed_out = strategy in MASTERS and has_average(program)
    return replace(
        program,
        tickets=0,
        roles=tuple(
            replace(
                role, ops=tuple(_ops(program, role, strategy, is_handed_out)), times=1, until=""
            )
            for role in roles
        ),
    )


def _saving_apart(program: Program, role: Role, strategy: Strategy) -> Iterator[Role]:
    """Yield ``role``, or where only the first replicas save, those and the others."""
    saving = len(role.dp)
    if _has_slices(program, strategy):
        saving = len(range(role.dp.start, program.sharers or program.mesh.dp))
    elif strategy in _SAVED_ONCE:
        saving = len(range(role.dp.start, 1))
    for span in (role.dp[:saving], role.dp[saving:]):
        if span:
            yield role.narrowed(Axis.DP, span)


def _ops(program: Program, role: Role, strategy: Strategy, is_handed_out: bool) -> Iterator[Op]:
    if is_handed_out:
        held = role.held("param")
        assert held is not None
        yield Collective("model", CollectiveKind.BROADCAST, held, Axis.DP)
        yield Wait(Lane.COMPUTE, "model")
    part = _saved(program, role, strategy)
    if part is not None:
        has_velocity = role.held("velocity") is not None
        size = part.size
        if part.chunks is not None:
            size = split_start(size, part.chunks.num_chunks, part.chunks.width)
        save = Save(part, (1 + has_velocity) * size * program.itemsize)
        yield save
        yield Wait(Lane.COMM, save.id)
    for axis in Axis:
        if program.mesh.size(axis) > 1:
            yield Collective(f"saved.{axis}", CollectiveKind.BARRIER, _NOTHING, axis)


def _has_slices(program: Program, strategy: Strategy) -> bool:
    """Say whether each replica updates a slice of weights that all of them share."""
    by_plan = program.is_shared and strategy in SYNCHRONOUS
    return by_plan or strategy is Strategy.SHARED_WINDOWS


def _saved(program: Program, role: Role, strategy: Strategy) -> Part | None:
    """Return which parameters a rank of ``role`` saves, or None."""
    gradient = role.held("grad")  # a ticket may follow the parameters, but no gradient's
    is_server = role.dp.start not in program.trainers
    if gradient is None or (strategy in SERVERS and not is_server):
        return None
    whole = replace(gradient, buffer="param")
    if _has_slices(program, strategy):
        is_first = not program.sharers or role.dp.start < program.sharers
        return slice_of("param", whole.stop, program.mesh.dp, program.sharers) if is_first else None
    is_own = program.is_shared and role.held("velocity") is not None
    return None if strategy in _SAVED_ONCE and role.dp.start > 0 and not is_own else whole
