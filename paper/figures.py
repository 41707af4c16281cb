"""The report's figures, drawn from the committed measurements and nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from exec.plan.strategy import Strategy
from paper.results import RANKS_PER_NODE, Record, Scaling
from sim.plot import COLOURS, PALETTE

_NETWORK_COLOURS = {"ethernet-cluster": "#d55e00", "infiniband-cluster": "#0072b2"}
STYLE: dict[Any, Any] = {"svg.hashsalt": "stepcast", "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip


def speedup_figure(path: Path, found: list[Scaling]) -> None:
    """Draw measured points, forecast lines with bands, and shade the counts that nobody ran."""
    cases = sorted({(s.net, s.batch) for s in found}, key=lambda case: len(case[0]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        panels = figure.subplots(1, len(cases), squeeze=False)[0]
        for axes, (net, batch) in zip(panels, cases, strict=True):
            own = [s for s in found if (s.net, s.batch) == (net, batch)]
            _speedup_panel(axes, own)
            axes.set_title(f"{net}, batch {batch}", fontsize=9)
        panels[0].set_ylabel("speedup over one rank")
        panels[0].legend(frameon=False, fontsize=7.5, loc="upper left")
        save(figure, path)


def _speedup_panel(axes: Axes, own: list[Scaling]) -> None:
    measured = own[0].measured
    most = max(f.ranks for s in own for f in s.forecasts)
    seen = max(measured)
    axes.axvspan(seen * 1.41, most * 1.2, color="#000000", alpha=0.05, lw=0)
    for scaling in own:
        ranks = [each.ranks for each in scaling.forecasts]
        points = [each.speedup_over(scaling.serial) for each in scaling.forecasts]
        colour = _NETWORK_COLOURS[scaling.network]
        label = f"forecast, {scaling.network.removesuffix('-cluster')}"
        axes.plot(ranks, [p[0] for p in points], color=colour, lw=1.4, label=label)
        axes.fill_between(ranks, [p[1] for p in points], [p[2] for p in points], color=colour, alpha=0.16, lw=0)  # fmt: skip
    axes.plot([1, most], [1, most], "--", color="#999999", lw=0.8, label="one per rank")
    axes.plot(list(measured), list(measured.values()), "o", color="black", ms=4.5, label="measured", zorder=5)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    top = max(f.speedup_over(s.serial)[2] for s in own for f in s.forecasts)
    lowest = min(f.speedup_over(s.serial)[0] for s in own for f in s.forecasts)
    axes.set_ylim(max(0.1, lowest / 1.5), 1.5 * top)
    axes.set_xlim(0.85, most * 1.2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"ranks, {RANKS_PER_NODE} on a node (grey: nobody ran)")
    axes.grid(visible=True, alpha=0.25)


def schemes_figure(
    path: Path, forecasts: Mapping[str, Sequence[tuple[int, float]]], serial_s: float, title: str,
    ran: list[Record],
) -> None:  # fmt: skip
    """Draw the schemes over nodes, and what averaging less often gains and costs."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.7), layout="constrained")
        over_nodes, times, accuracies = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
        shown = {name: points for name, points in forecasts.items() if name in _SHOWN}
        for name, points in shown.items():
            nodes, times_s = zip(*points, strict=True)
            colour, style = _SHOWN[name]
            over_nodes.plot(nodes, times_s, style, color=colour, label=name, ms=3, lw=1.2)
        over_nodes.axhline(serial_s, color="#999999", lw=0.8, ls="-.", label="one rank")
        over_nodes.set_xscale("log", base=2)
        over_nodes.set_yscale("log")
        over_nodes.set_xlabel("nodes (forecast)")
        over_nodes.set_ylabel("time of an epoch, s")
        over_nodes.xaxis.set_major_formatter("{x:.0f}")
        over_nodes.yaxis.set_major_formatter("{x:.3g}")
        over_nodes.yaxis.set_minor_formatter("{x:.3g}")
        over_nodes.tick_params(axis="y", which="minor", labelsize=6)
        over_nodes.set_title(title, fontsize=8)
        over_nodes.legend(loc="upper center", ncols=2, **_BELOW)
        _averaging_panels(times, accuracies, ran)
        for axes in (over_nodes, times, accuracies):
            axes.grid(visible=True, alpha=0.25)
        save(figure, path)


_BELOW: dict[str, Any] = {"frameon": False, "fontsize": 6, "bbox_to_anchor": (0.45, -0.17)}
_SHOWN = {
    "all-reduce, library": (PALETTE[0], "o-"),
    "all-reduce, ring": (PALETTE[0], "s--"),
    "averaging every 4": (PALETTE[2], "o-"),
    "averaging every epoch": (PALETTE[2], "s--"),
    "master_round_trip": (PALETTE[7], "v-"),
    "server, 1 serving": (PALETTE[1], "o-"),
    "server, 4 serving": (PALETTE[1], "s--"),
    "async_server, 4 serving": (PALETTE[3], "D--"),
}


def _averaging_panels(times: Axes, accuracies: Axes, ran: list[Record]) -> None:
    """Draw measured epoch times and accuracies against the steps between averages."""
    for ranks, colour in ((2, PALETTE[0]), (4, PALETTE[1])):
        own = [each for each in ran if each["ranks"] == ranks and each["strategy"] == "averaging"
               and "independent" not in each["scheme"]]  # fmt: skip
        names = [str(each["average_every"] or "epoch") for each in own]
        label = f"{ranks} ranks" + " (oversubscribed)" * own[0]["oversubscribed"]
        face = "white" if own[0]["oversubscribed"] else colour
        for axes, key in ((times, "epoch_time"), (accuracies, "accuracy")):
            middle = [each["epoch_time_s" if key == "epoch_time" else key] for each in own]
            low, high = ([each[f"{key}_{end}{'_s' * (key == 'epoch_time')}"] for each in own] for end in ("low", "high"))  # fmt: skip
            errors = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]  # fmt: skip
            axes.errorbar(names, middle, errors, fmt="o-", color=colour, mfc=face, ms=4, lw=1.2, label=label)  # fmt: skip
    serial = next(each for each in ran if each["strategy"] == "serial")
    times.axhline(serial["epoch_time_s"], color="#999999", lw=0.8, ls="-.", label="one rank")
    accuracies.axhline(serial["accuracy"], color="#999999", lw=0.8, ls="-.", label="one rank")
    times.set_yscale("log")
    for formatter in (times.yaxis.set_major_formatter, times.yaxis.set_minor_formatter):
        formatter("{x:.2g}")
    times.tick_params(axis="y", which="minor", labelsize=6)
    times.set_ylabel("time of an epoch, s (measured)")
    accuracies.set_ylabel("test accuracy (measured)")
    accuracies.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (times, accuracies):
        axes.set_xlabel("steps between averages")
        axes.legend(loc="upper center", **_BELOW)


def agreement_figure(path: Path, checks: list[Record]) -> None:
    """Draw what the three readers say of each case: run, solve and simulate."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        diagonal, errors = figure.subplots(1, 2, width_ratios=(1, 1.25))
        times = [c["measured_s"] * 1e6 for c in checks]
        ends = [min(times) / 1.5, max(times) * 1.5]
        diagonal.plot(ends, ends, color="#999999", lw=0.8)
        for strategy in Strategy:
            own = [c for c in checks if c["strategy"] == strategy]
            if not own:
                continue
            x = [c["measured_s"] * 1e6 for c in own]
            diagonal.plot(x, [c["solved_s"] * 1e6 for c in own], "o", mfc="none", ms=7, color=COLOURS[strategy], label=f"{strategy}")  # fmt: skip
            diagonal.plot(x, [c["simulated_s"] * 1e6 for c in own], "+", ms=6, color=COLOURS[strategy])  # fmt: skip
        diagonal.set_xscale("log")
        diagonal.set_yscale("log")
        diagonal.set_xlabel("run: measured step, us")
        diagonal.set_ylabel("forecast step, us (o solved, + simulated)")
        diagonal.legend(frameon=False, fontsize=7.5)
        _error_panel(errors, checks)
        save(figure, path)


def _error_panel(axes: Axes, checks: list[Record]) -> None:
    ordered = list(reversed(checks))
    for row, check in enumerate(ordered):
        measured = check["measured_s"]
        low, high = (100 * (check[key] / measured - 1) for key in ("solved_low_s", "solved_high_s"))
        colour = COLOURS[Strategy(check["strategy"])]
        axes.plot([low, high], [row, row], color=colour, lw=3, alpha=0.3, solid_capstyle="butt")
        axes.plot(100 * check["error"], row, "o", mfc="none", color=colour, ms=5)
        axes.plot(100 * (check["simulated_s"] / measured - 1), row, "+", color=colour, ms=5)
    axes.axvline(0, color="#999999", lw=0.8)
    axes.set_yticks(range(len(ordered)), [_label(check) for check in ordered], fontsize=6.2)
    axes.set_xlabel("forecast error, % (bar: 90 %)")
    axes.grid(visible=True, axis="x", alpha=0.25)


def _label(check: Record) -> str:
    extra = f", {check['algorithm']}" if check["algorithm"] != "library" else ""
    extra += ", overlapped" if check["overlap"] else ""
    ranks = "" if check["ranks"] == 1 else f" on {check['ranks']}"
    return f"{check['net']}, {check['batch']}: {check['strategy']}{ranks}{extra}"


def save(figure: Figure, path: Path) -> None:
    """Write ``figure``, the same bytes every time."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=160)
