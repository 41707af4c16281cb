"""A pool of groups of MPI ranks, on ``mpi4py.futures``.

Rank 0 hands out tasks and does none; the others form groups of equal size, whose leaders are the
workers of an ``MPICommExecutor``. A leader passes each task on to the members of its group, and the
group does it together. Ranks that are left over sleep, as do members between tasks: a rank that
waits inside MPI spins, and would take a core from those that work.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from time import sleep
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from exec.errors import UsageError
from exec.transport.mpi import MpiTransport
from exec.transport.protocol import Transport

if TYPE_CHECKING:
    from mpi4py import MPI

Task = TypeVar("Task")
Result = TypeVar("Result")
Answer = TypeVar("Answer")

_SLEEP_S = 0.001  # as mpi4py.futures
_DO: ContextVar[Callable[[Any], Any]] = ContextVar("_DO")
"""What this rank does with a task; the pool sends the name of a function only."""


@dataclass(frozen=True, slots=True)
class Pool(Generic[Task, Result]):
    """What hands out: ``submit`` a task, to be done by one of ``num_groups`` groups."""

    num_groups: int
    submit: Callable[[Task], Future[Result]]


def num_groups(ranks: int, ranks_per_group: int) -> int:
    """Return how many groups ``ranks`` ranks form, of which rank 0 hands out.

    A single rank hands out to itself.

    Raises:
        UsageError: not even one group.
    """
    if ranks_per_group < 1:
        raise UsageError(f"ranks-per-trial must be at least 1, got {ranks_per_group}")
    if ranks == 1:
        return 1
    if ranks_per_group > ranks - 1:
        raise UsageError(
            f"ranks-per-trial must be at most {ranks - 1}, since rank 0 of {ranks} only hands out, "
            f"got {ranks_per_group}; start {ranks_per_group + 1} ranks or more"
        )
    return (ranks - 1) // ranks_per_group


def run_pool(
    world: MpiTransport, ranks_per_group: int,
    hand_out: Callable[[Pool[Task, Result]], Answer],
    work: Callable[[Task, Transport, int], Result],
) -> Answer | None:  # fmt: skip
    """Return what ``hand_out`` returns, on rank 0; the other ranks ``work`` until it does.

    ``work`` gets a task, the transport of its group and the group's number; what it returns on the
    leader is the result. Neither may raise: they end the job themselves if they fail.
    """
    from mpi4py import MPI  # noqa: PLC0415  # it is initialised by now
    from mpi4py.futures import MPICommExecutor  # noqa: PLC0415

    groups = num_groups(world.size, ranks_per_group)
    group, place = divmod(world.rank - 1, ranks_per_group)
    is_working = 0 <= group < groups
    is_in_pool = world.rank == 0 or (is_working and place == 0)
    closing = world.comm.Dup()
    own = world.comm.Split(group if is_working else MPI.UNDEFINED, place)
    pool = world.comm.Split(0 if is_in_pool else MPI.UNDEFINED, world.rank)
    answer: Answer | None = None
    if is_working:
        transport, control = MpiTransport(own, MPI), own.Dup()  # type: ignore[arg-type]  # an Intracomm
    if is_in_pool:

        def lead(task: Task) -> Result:
            _tell(control, task)
            return work(task, transport, group)

        token = _DO.set(lead)
        with MPICommExecutor(pool) as executor:  # type: ignore[arg-type]
            if executor is not None:
                submit = partial(executor.submit, _do)  # type: ignore[attr-defined]  # rank 0's is one
                answer = hand_out(Pool(groups, submit))
        _DO.reset(token)
        if is_working:
            _tell(control, None)
    elif is_working:
        while (task := _told(control)) is not None:
            work(task, transport, group)
    _meet(closing)
    return answer


def _do(task: Any) -> Any:
    """Do ``task`` on the rank to which the pool sent it."""
    return _DO.get()(task)


def _tell(control: "MPI.Comm", task: object) -> None:
    """Pass ``task`` to the members of this leader's group; None ends them."""
    for member in range(1, control.Get_size()):
        control.send(task, member)


def _told(control: "MPI.Comm") -> Any:
    """Return what the leader passes next, asleep until then."""
    while not control.Iprobe(0):
        sleep(_SLEEP_S)
    return control.recv(source=0)


def _meet(comm: "MPI.Comm") -> None:
    """Return when all ranks have come, asleep until then."""
    request = comm.Ibarrier()
    while not request.Test():
        sleep(_SLEEP_S)
