"""Work: what a role computes, in runs that pass without a message, and each shape counted once.

A step repeats the same kernels on the same shapes for each microbatch, so a program of thousands of
ops has a handful of runs. A walk of a role's lane asks what a run takes, not what each op does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from exec.program.ops import (
    Accumulate,
    Acquire,
    Collective,
    Compute,
    Grant,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Release,
    Repeat,
    Save,
    Scale,
    Send,
    Shape,
    Wait,
    lane_of,
)
from sim.same import Same

Tally = tuple[tuple[Kernel, Shape, int], ...]
"""Kernels on shapes, and how often."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Computes that follow each other; equal runs of a role have one ``tally``, the same object.

    A wait for ``id`` ends when the last of them does.
    """

    tally: Tally
    id: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Takes no time, but what is sent before it is not sent together with what is sent after it."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What is repeated, with its runs."""

    count: int
    body: tuple["Step", ...]


Step = Run | Gap | Loop | Op


def tally(ops: tuple[Op, ...]) -> Tally:
    """Return what ``ops`` compute, but for what they repeat."""
    return _tally(Same(ops))


def has_lock(ops: tuple[Op, ...]) -> bool:
    """Say whether a rank takes a lock, which it may have to wait for."""
    return _has_lock(Same(ops))


def runs(ops: tuple[Op, ...], lane: Lane | None) -> tuple[Step, ...]:
    """Return ``ops``, or those of a ``lane``, with runs in place of what they compute.

    Without a lane a rank does one thing at a time: then it need not wait for what it has done itself,
    unless that is a message of its own.
    """
    return _runs(Same(ops), lane)


@lru_cache(maxsize=1024)
def _has_lock(same: Same[tuple[Op, ...]]) -> bool:
    return any(isinstance(op, Acquire) for op in same.value)


@lru_cache(maxsize=1024)
def _tally(same: Same[tuple[Op, ...]]) -> Tally:
    return _counted([op for op in same.value if isinstance(op, Compute)])


def _counted(ops: Iterable[Compute]) -> Tally:
    kept: dict[tuple[int, int], Compute] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for op in ops:
        key = _same_kind(op)
        kept[key] = op
        counts[key] += 1
    found: dict[tuple[Kernel, Shape], int] = {}
    for key, count in counts.items():
        kind = kept[key].kernel, kept[key].shape
        found[kind] = found.get(kind, 0) + count
    return tuple((kernel, shape, count) for (kernel, shape), count in found.items())


@lru_cache(maxsize=1024)
def _runs(same: Same[tuple[Op, ...]], lane: Lane | None) -> tuple[Step, ...]:
    awaited = frozenset(op.id for op in same.value if isinstance(op, Wait))
    mine = same.value if lane is None else [op for op in same.value if lane_of(op) is lane]
    tallies: dict[tuple[tuple[int, int], ...], Tally] = {}
    return tuple(_condensed(mine, awaited, _late(same.value), tallies, one_lane=lane is None))


def _late(ops: tuple[Op, ...]) -> frozenset[str]:
    """Return the ids that may end after a rank has gone on: those of messages, and all in repeats."""
    found: set[str] = set()
    for op in ops:
        inner = op.body if isinstance(op, Repeat) else (op,) if isinstance(op, Send) else ()
        found.update(each.id for each in inner if not isinstance(each, _NAMELESS))
    return frozenset(found)


def _condensed(
    ops: Iterable[Op], awaited: frozenset[str], late: frozenset[str],
    tallies: dict[tuple[tuple[int, int], ...], Tally], *, one_lane: bool,
) -> Iterator[Step]:  # fmt: skip
    """Yield ``ops`` with runs; on ``one_lane`` without waits for what has ended by then."""
    computes: list[Compute] = []
    ended: set[str] = set()
    last: Step | None = None

    def run(name: str = "") -> Run:
        key = tuple(map(_same_kind, computes))
        if key not in tallies:
            tallies[key] = _counted(computes)
        computes.clear()
        return Run(tallies[key], name)

    for op in ops:
        if isinstance(op, Compute):
            computes.append(op)
            last = None
            if (name := op.id) in awaited:
                ended.add(name)
                if not one_lane:
                    yield run(name)
            continue
        if one_lane and isinstance(op, Wait) and op.id in ended and op.id not in late:
            if computes or not isinstance(last, _IN_A_ROW):
                continue
            last = Gap()
            yield last
            continue
        if computes:
            yield run()
        last = op
        if isinstance(op, Repeat):
            body = _condensed(op.body, awaited, late, tallies, one_lane=False)
            last = Loop(op.count, tuple(body))
        elif isinstance(op, Collective | Receive | Mark | Save):
            ended.add(op.id)
        yield last
    if computes:
        yield run()


_NAMELESS = (Accumulate, Scale, Grant, Repeat, Acquire, Release)
_IN_A_ROW = (Send, Receive, Accumulate, Loop)


def _same_kind(op: Compute) -> tuple[int, int]:
    """Return what ops that share a shape have in common: hashing all its numbers would take longer."""
    return id(op.kernel), id(op.shape)
