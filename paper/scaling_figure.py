"""Strong scaling on one node, drawn: measured speedups and those forecast from two ranks."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exec.plan.strategy import Strategy
from paper.figures import STYLE, save
from paper.results import Record
from paper.scaling import CALIBRATED_RANKS
from sim.plot import COLOURS


def scaling_figure(path: Path, rows: Sequence[Record]) -> None:
    """Draw measured points with the spread of the rounds, and forecast lines with their bands."""
    cases = list(dict.fromkeys((row["net"], row["batch"]) for row in rows))
    most = max(row["ranks"] for row in rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.7), layout="constrained")
        panels = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
        for axes, case in zip(panels, cases, strict=True):
            _panel(axes, [row for row in rows if (row["net"], row["batch"]) == case], most)
            net, batch = case
            axes.set_title(f"{_short(net)}, batch {batch}", fontsize=8)
        panels[0].set_ylabel("speedup over one rank")
        panels[0].legend(frameon=False, fontsize=6.5, loc="upper left")
        save(figure, path)


def _panel(axes: Axes, rows: Sequence[Record], most: int) -> None:
    axes.axvspan(CALIBRATED_RANKS * 1.41, most * 1.2, color="#000000", alpha=0.05, lw=0)
    axes.plot([1, most], [1, most], "--", color="#999999", lw=0.8)
    serial = [row for row in rows if row["strategy"] == Strategy.SERIAL]
    for strategy in Strategy:
        own = [row for row in rows if row["strategy"] == strategy]
        if not own or strategy is Strategy.SERIAL:
            continue
        points = sorted(serial + own, key=lambda row: int(row["ranks"]))
        ranks, colour = [row["ranks"] for row in points], COLOURS[strategy]
        forecast, measured = ([row[key] for row in points] for key in ("forecast_speedup", "speedup"))  # fmt: skip
        axes.plot(ranks, [each["median"] for each in forecast], color=colour, lw=1.2)
        axes.fill_between(ranks, [each["low"] for each in forecast], [each["high"] for each in forecast], color=colour, alpha=0.15, lw=0)  # fmt: skip
        middle = [each["median"] for each in measured]
        errors = [[each["median"] - each["low"] for each in measured], [each["high"] - each["median"] for each in measured]]  # fmt: skip
        axes.errorbar(ranks, middle, errors, fmt="o", color=colour, ms=3.5, lw=1, label=strategy)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0.85, most * 1.2)
    axes.set_xlabel("ranks (grey: not calibrated)")
    axes.grid(visible=True, alpha=0.25)


def _short(net: str) -> str:
    """Return ``net`` with a repeated width told once: 784-512x7-26.

    >>> _short("784-512-512-26"), _short("cnn")
    ('784-512x2-26', 'cnn')
    """
    found: list[tuple[str, int]] = []
    for width in net.split("-"):
        if found and found[-1][0] == width:
            found[-1] = (width, found[-1][1] + 1)
        else:
            found.append((width, 1))
    return "-".join(width if count == 1 else f"{width}x{count}" for width, count in found)
