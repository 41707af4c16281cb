"""Laws of what is made of the readings: rates that add up, counters, and the picture."""

import json
from pathlib import Path

import numpy as np
import pytest

from exec.errors import UsageError
from exec.program.ops import Lane
from exec.program.timeline import Counter, Span, chrome_trace
from exec.runtime.monitor import Reading, Usage
from exec.runtime.utilisation import counters, utilisation_line, utilisation_record
from exec.runtime.utilisation_plot import (
    check_plot,
    common_grid_s,
    draw_utilisation,
    resampled,
)

MIB = 1 << 20
# Times and rates are binary fractions, so the floats are exact.
USAGE = Usage(
    rank=3,
    shares_memory=False,
    readings=(
        Reading(0.5, 2.0, 64 * MIB, 0),
        Reading(1.0, 2.5, 96 * MIB, 8 * MIB),
        Reading(3.0, 3.0, 80 * MIB, 8 * MIB),
    ),
)


def drawn_usages(ranks: int, *, shares_memory: bool = False) -> list[Usage]:
    """Return usages whose clocks differ a little, as those of ranks do."""
    return [
        Usage(
            rank,
            shares_memory,
            tuple(
                Reading(0.1 * i + 0.001 * rank, 0.01 * i * (rank + 1), (50 + rank) * MIB, i * i * MIB)
                for i in range(20 - rank % 2)
            ),
        )
        for rank in range(ranks)
    ]  # fmt: skip


def test_record_has_rates_means_and_totals() -> None:
    assert utilisation_record([USAGE]) == {
        "mean_cpu": 0.4,  # 1 s of CPU in 2.5 s
        "ranks_share_memory": False,
        "ranks": [
            {
                "rank": 3,
                "time_s": [0.5, 1.0, 3.0],
                "cpu": [0.0, 1.0, 0.25],
                "memory_bytes": [64 * MIB, 96 * MIB, 80 * MIB],
                "sent_bytes": [0, 8 * MIB, 8 * MIB],
                "mean_cpu": 0.4,
                "peak_memory_bytes": 96 * MIB,
                "total_sent_bytes": 8 * MIB,
            }
        ],
    }
    assert utilisation_record([]) is None


def test_line_for_people_tells_the_same() -> None:
    record = utilisation_record([USAGE])
    assert record is not None
    assert utilisation_line(record) == (
        "used: CPU 0.40 cores a rank, memory at most 96 MiB a rank, 8.00 MiB sent"
    )


def test_rates_hold_from_the_reading_they_count_from() -> None:
    assert list(counters([USAGE])) == [
        Counter(3, "CPU", 0.5, 1.0, "cores"),
        Counter(3, "CPU", 1.0, 0.25, "cores"),
        Counter(3, "CPU", 3.0, 0.0, "cores"),
        Counter(3, "memory", 0.5, 64.0, "MiB"),
        Counter(3, "memory", 1.0, 96.0, "MiB"),
        Counter(3, "memory", 3.0, 80.0, "MiB"),
        Counter(3, "sent", 0.5, 16.0, "MiB/s"),
        Counter(3, "sent", 1.0, 0.0, "MiB/s"),
        Counter(3, "sent", 3.0, 0.0, "MiB/s"),
    ]


def test_trace_shows_counters_under_their_rank_on_the_clock_of_the_spans() -> None:
    spans = [Span(3, Lane.COMPUTE, "load.0.0", 1.0, 1.5)]
    events = json.loads(chrome_trace(spans, counters([USAGE])))["traceEvents"]
    assert {event["pid"] for event in events} == {3}
    assert [(e["ts"], e["args"]) for e in events if e["ph"] == "C" and e["name"] == "CPU"] == [
        (0.0, {"cores": 1.0}),
        (500_000.0, {"cores": 0.25}),
        (2_500_000.0, {"cores": 0.0}),
    ]
    assert [event["ts"] for event in events if event["ph"] == "X"] == [500_000.0]


def test_rank_with_counters_only_is_named() -> None:
    events = json.loads(chrome_trace([], counters([USAGE])))["traceEvents"]
    assert {"rank 3"} == {e["args"]["name"] for e in events if e["name"] == "process_name"}


@pytest.mark.parametrize("ranks", [1, 2, 9])
def test_resampled_rates_add_up_to_what_was_used_between_the_ends(ranks: int) -> None:
    usages = drawn_usages(ranks)
    grid_s = common_grid_s(usages)
    rates = resampled(usages, grid_s, lambda reading: reading.cpu_s, is_rate=True)
    # CPU time grows by 0.1 (rank + 1) a second throughout.
    expected = 0.1 * np.arange(1, ranks + 1)[:, None] * np.ones(len(grid_s) - 1)
    np.testing.assert_allclose(rates, expected, rtol=1e-9)  # some tens of roundings of 1e-16
    assert grid_s[0] == max(usage.readings[0].time_s for usage in usages)
    assert grid_s[-1] == min(usage.readings[-1].time_s for usage in usages)


@pytest.mark.parametrize(
    ("ranks", "shares_memory", "labels"),
    [
        (1, False, ["CPU, cores", "memory, MiB", "sent, MiB/s", "the title"]),
        (8, True, ["rank 0", "rank 7", "memory of all, MiB"]),
        (9, False, ["median of 9 ranks", "least to most", "memory, MiB"]),
    ],
)
def test_picture_names_what_it_draws(
    tmp_path: Path, ranks: int, shares_memory: bool, labels: list[str]
) -> None:
    path = tmp_path / "usage.svg"
    draw_utilisation(path, drawn_usages(ranks, shares_memory=shares_memory), "the title")
    drawn = path.read_text(encoding="utf-8")
    for label in labels:
        assert f"<!-- {label} -->" in drawn
    assert "rank 8" not in drawn
    assert ("stroke: #555555" in drawn) == shares_memory  # the one line of all
    assert "nothing was sent" not in drawn


def test_picture_says_that_nothing_was_sent(tmp_path: Path) -> None:
    quiet = Usage(0, False, (Reading(0.0, 0.0, MIB, 0), Reading(1.0, 0.5, MIB, 0)))
    path = tmp_path / "usage.svg"
    draw_utilisation(path, [quiet], "alone")
    assert "<!-- nothing was sent -->" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["usage", "usage.txt"])
def test_picture_of_another_format_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"monitor-plot must end in \.png, \.svg, \.pdf, got {name}"):  # fmt: skip
        check_plot(Path(name))
