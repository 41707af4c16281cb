"""Laws of the timeline's one format: Chrome trace JSON."""

import json

import pytest

from exec.program.ops import Lane
from exec.program.timeline import Span, chrome_trace

SPANS = [
    Span(1, Lane.COMM, "bucket0", 10.25, 10.5),
    Span(0, Lane.COMPUTE, "linear.0.0", 10.0, 10.25),
    Span(0, Lane.COMM, "send a", 10.125, 10.1875),
    Span(1, Lane.COMPUTE, "load.0.0", 10.0, 10.0),
]


def events(spans: list[Span], phase: str) -> list[dict[str, object]]:
    """Return the trace's events of one phase."""
    return [
        event for event in json.loads(chrome_trace(spans))["traceEvents"] if event["ph"] == phase
    ]


def test_trace_has_one_process_per_rank_and_one_track_per_lane() -> None:
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"] for event in events(SPANS, "M")
    }
    assert names == {
        ("process_name", 0, 0): {"name": "rank 0"},
        ("process_name", 1, 0): {"name": "rank 1"},
        ("thread_name", 0, 0): {"name": "compute"},
        ("thread_name", 0, 1): {"name": "comm"},
        ("thread_name", 1, 0): {"name": "compute"},
        ("thread_name", 1, 1): {"name": "comm"},
    }
    tracks = {event["name"]: (event["pid"], event["tid"]) for event in events(SPANS, "X")}
    assert tracks == {"linear.0.0": (0, 0), "send a": (0, 1), "load.0.0": (1, 0), "bucket0": (1, 1)}


def test_times_are_microseconds_from_the_first_span() -> None:
    # Every time above is a multiple of 1/16 s, so the floats are exact.
    times = {event["name"]: (event["ts"], event["dur"]) for event in events(SPANS, "X")}
    assert times == {
        "load.0.0": (0.0, 0.0),
        "linear.0.0": (0.0, 250_000.0),
        "send a": (125_000.0, 62_500.0),
        "bucket0": (250_000.0, 250_000.0),
    }


def test_no_spans_make_an_empty_trace() -> None:
    assert json.loads(chrome_trace([]))["traceEvents"] == []


def test_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        chrome_trace([Span(0, Lane.COMM, "a", 0.0, float("nan"))])


def test_duration_is_end_less_start() -> None:
    assert [span.duration_s for span in SPANS] == [0.25, 0.25, 0.0625, 0.0]
