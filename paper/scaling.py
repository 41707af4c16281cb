"""Strong scaling on one node: the committed runs on most ranks, forecast from two of them."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from paper.results import MEASUREMENTS, Record, read_records

CALIBRATED_RANKS = 2


def scaling_numbers(folder: Path = MEASUREMENTS) -> Record:
    """Return the runs of the file ``scaling-*.jsonl`` with most ranks; no rows if there is none.

    ``is_pending`` says that nobody has run on more ranks than were calibrated.

    Raises:
        DataError: a file's first record is no provenance.
    """
    most, head, rows = 1, None, list[Record]()
    for path in sorted(folder.glob("scaling-*.jsonl")):
        own_head, records = read_records(path)
        own = [each for each in records if each["kind"] == "scaling"]
        ranks = max((each["ranks"] for each in own), default=0)
        if ranks > most:
            most, head, rows = ranks, own_head, own
    return {
        "provenance": head, "rows": rows, "most_ranks": most, "is_pending": most <= CALIBRATED_RANKS,
        "seen": _errors([row for row in rows if row["was_seen"]]),
        "unseen": _errors([row for row in rows if not row["was_seen"]]),
    }  # fmt: skip


def _errors(rows: Sequence[Record]) -> Record | None:
    """Return how far the forecasts of ``rows`` missed."""
    if not rows:
        return None
    errors = sorted(abs(row["error"]) for row in rows)
    return {
        "count": len(rows), "median": statistics.median(errors), "least": errors[0], "most": errors[-1],
        "inside": sum(row["is_inside"] for row in rows),
    }  # fmt: skip
