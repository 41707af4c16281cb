"""The answers of a sweep: as many as can be at once, the others one after the other on all cores.

Under ``mpiexec -n K python -m mpi4py.futures -m sim.sweep`` the cores of all nodes take part: who
starts it so has brought the pool, and nothing here imports MPI.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from exec.errors import MachineError, SweepError, UsageError
from exec.launch import launched_ranks
from sim.forecast import Breakdown, Engine, forecast
from sim.grid import Answer, Point, answers
from sim.placement import fits_memory

_MOST_CHUNK, _CHUNKS_PER_WORKER = 64, 8
_FEW = 256  # are solved before another process has started
Outcome = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of all points: of which engine, and whether for an interval."""

    engine: Engine = Engine.SOLVE
    has_interval: bool = False


def answer_together(points: Sequence[Point], what: Asked) -> dict[int, Outcome]:
    """Return the outcomes of those of ``points`` that can be solved together, by their place."""
    if what.engine is not Engine.SOLVE:
        return {}
    found = answers(points, has_interval=what.has_interval)
    return {place: _outcome(points[place], answer) for place, answer in found.items()}


def answer_alone(
    points: Sequence[tuple[int, Point]], what: Asked, workers: int, report: Callable[[int], None]
) -> Iterator[list[tuple[int, Outcome]]]:
    """Yield the outcomes of ``points``, each with its place, as they are there.

    Raises:
        SweepError: a worker process was killed.
    """
    if workers == 1 or (what.engine is Engine.SOLVE and len(points) < _FEW):
        for each in points:
            report(1)
            yield _answer([each], what)
        return
    if not points:
        return
    with _executor(min(workers, len(points))) as (executor, size):
        chunk = max(1, min(_MOST_CHUNK, len(points) // (size * _CHUNKS_PER_WORKER)))
        with _uninterrupted():
            waiting: list[Future[list[tuple[int, Outcome]]]] = [
                executor.submit(_answer, points[start : start + chunk], what)
                for start in range(0, len(points), chunk)
            ]
        children = multiprocessing.active_children()
        try:
            for done in as_completed(waiting):
                found = done.result()
                report(len(found))
                yield found
        except BrokenExecutor as error:
            executor.shutdown()  # reaps them
            # The pool ends the others itself; the one that ended first did so by another signal.
            killed = next((child for child in children if child.exitcode not in (None, 0, -signal.SIGTERM)), None)  # fmt: skip
            who = "a worker" if killed is None else f"worker {killed.pid}"
            how = "" if killed is None or killed.exitcode is None else _ending(killed.exitcode)
            raise SweepError(f"{who} ended{how}; what was finished is in the file, and the same command goes on from there") from error  # fmt: skip
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()
            raise


def _ending(status: int) -> str:
    return f" by {signal.Signals(-status).name}" if status < 0 else f" with status {status}"


@contextmanager
def _executor(workers: int) -> Iterator[tuple[Executor, int]]:
    """Yield the pool, and how many work in it."""
    futures = sys.modules.get("mpi4py.futures")
    ranks = launched_ranks(os.environ)
    if futures is not None and ranks > 1:
        with futures.MPIPoolExecutor() as pool:
            yield pool, ranks - 1
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        yield pool, workers


def _end_with_parent() -> None:
    """End this process as soon as the one that hands out ends, be it killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start processes that leave Ctrl-C, which a terminal sends to all, to the one that hands out."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(points: Sequence[tuple[int, Point]], what: Asked) -> list[tuple[int, Outcome]]:
    """Return the outcomes of ``points``; this is what a worker does."""
    found: list[tuple[int, Outcome]] = []
    for place, point in points:
        try:
            told = forecast(point.machine, point.workload, point.mesh, point.options,
                            ranks_per_node=point.ranks_per_node, engine=what.engine, has_interval=what.has_interval)  # fmt: skip
        except (UsageError, MachineError) as error:
            found.append((place, {"refused": str(error)}))
            continue
        interval_s = told.interval_s if what.has_interval else None
        answer = Answer(told.nodes, told.breakdown, told.memory_bytes, bool(told.extrapolated), interval_s)  # fmt: skip
        upper = {} if told.upper_s is None else {"step_time_upper_s": told.upper_s}
        found.append((place, _outcome(point, answer) | upper))
    return found


def _outcome(point: Point, answer: Answer) -> Outcome:
    mesh, parts = point.mesh, answer.breakdown
    step_s = parts.total_s
    found = {
        "mesh": f"{mesh.dp}x{mesh.pp}x{mesh.tp}",
        "step_time_s": step_s,
        "samples_per_s": point.workload.global_batch / step_s,
        "memory_bytes": answer.memory_bytes,
        "fits_memory": fits_memory(point.machine, mesh, answer.memory_bytes, point.ranks_per_node),
        "is_extrapolated": answer.is_extrapolated,
        "breakdown": {name: getattr(parts, name) for name in _PARTS},
    }
    if answer.interval_s is not None:
        found["step_time_low_s"], found["step_time_high_s"] = answer.interval_s
    return found


_PARTS = tuple(each.name for each in fields(Breakdown))
