"""Spans: what the timeline says of a bound op that has taken time."""

from exec.program.ops import Acquire, Collective, Compute, Op, Receive, Save, Wait
from exec.program.timeline import Span
from sim.bound_ops import Bound


def span_of(rank: int, bound: Bound, start_s: float, end_s: float) -> Span:
    """Return the span of ``bound`` on its lane of ``rank``."""
    return Span(rank, bound.lane, _name(bound.op), start_s, end_s)


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
