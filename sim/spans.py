"""Spans: what the timeline says of a bound op that has taken time."""

from collections.abc import Iterator

from exec.program.ops import Acquire, Collective, Compute, Op, Receive, Save, Wait
from exec.program.timeline import Span
from sim.bound_ops import Bound, Works
from sim.ranks import Rank


def spans_of(rank: Rank, bound: Bound, start_s: float, end_s: float) -> Iterator[Span]:
    """Yield the spans of ``bound``, one for each work that takes time, on their lanes of ``rank``."""
    if not isinstance(bound.verb, Works):
        yield Span(rank.number, bound.lane, _name(bound.op), start_s, end_s)
        return
    for (seconds, is_paced), each in zip(bound.verb.parts, bound.verb.bounds, strict=True):
        until_s = start_s + seconds * (rank.pace if is_paced else 1.0)
        if until_s > start_s:
            yield Span(rank.number, each.lane, _name(each.op), start_s, until_s)
        start_s = until_s


def _name(op: Op) -> str:
    match op:
        case Compute() | Collective() | Save():
            return op.id
        case Receive(id):
            return f"recv {id}"
        case Wait(_, id):
            return f"wait {id}"
        case Acquire(name):
            return f"wait {name}"
        case _:
            return type(op).__name__.lower()
