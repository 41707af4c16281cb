"""The timeline: what happened, or would happen, when; one format for the run and the forecasts."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from exec.program.ops import Lane


@dataclass(frozen=True, slots=True)
class Span:
    """``name`` kept ``lane`` of ``rank`` busy from ``start_s`` to ``end_s``."""

    rank: int
    lane: Lane
    name: str
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Counter:
    """``name`` of ``rank`` is ``value`` (in ``unit``) from ``time_s`` until its next counter."""

    rank: int
    name: str
    time_s: float
    value: float
    unit: str = "value"


def chrome_trace(spans: Iterable[Span], counters: Iterable[Counter] = ()) -> str:
    """Return Chrome trace JSON: one process per rank, one track per lane and per counter.

    It opens in ui.perfetto.dev and chrome://tracing. Times are microseconds from the first span
    or counter.
    """
    ordered = sorted(spans, key=lambda span: (span.rank, span.lane, span.start_s))
    counted = sorted(counters, key=lambda counter: (counter.rank, counter.name, counter.time_s))
    starts_s = [span.start_s for span in ordered] + [counter.time_s for counter in counted]
    origin_s = min(starts_s, default=0.0)
    lanes = list(Lane)
    events: list[dict[str, object]] = []
    for rank in sorted({span.rank for span in ordered} | {counter.rank for counter in counted}):
        events.append(_name("process_name", rank, 0, f"rank {rank}"))
        events.extend(_name("thread_name", rank, tid, lane) for tid, lane in enumerate(lanes))
    for span in ordered:
        events.append({
            "name": span.name,
            "cat": span.lane,
            "ph": "X",
            "pid": span.rank,
            "tid": lanes.index(span.lane),
            "ts": round((span.start_s - origin_s) * 1e6, 3),
            "dur": round(span.duration_s * 1e6, 3),
        })  # fmt: skip
    for counter in counted:
        events.append({
            "name": counter.name,
            "ph": "C",
            "pid": counter.rank,
            "ts": round((counter.time_s - origin_s) * 1e6, 3),
            "args": {counter.unit: counter.value},
        })  # fmt: skip
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)


def _name(kind: str, rank: int, tid: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": rank, "tid": tid, "args": {"name": name}}
