"""The figure of strategies: speedup over nodes by network and machine, and where a step goes."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from exec.plan.strategy import Strategy
from paper.figures import STYLE, save
from paper.strategies import NODES, STRATEGIES, Record
from sim.plot import COLOURS

_MARKERS = dict(zip(STRATEGIES, ("o-", "v-", "s-", "^-", "D--"), strict=True))
_PARTS = {
    "compute": ("#4477aa", "compute"),
    "exposed_comm": ("#ee6677", "communication"),
    "bubble": ("#ccbb44", "bubble"),
    "wait": ("#aa3377", "wait for the slowest"),
    "overhead": ("#bbbbbb", "overhead"),
}


def strategies_figure(path: Path, found: list[Record]) -> None:
    """Draw a column for each network: a row of speedups for each machine, then shares of a step."""
    cases = list(dict.fromkeys((each["net"], each["batch"]) for each in found))
    machines = list(dict.fromkeys(each["machine"] for each in found))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.2 * len(machines) + 2.0), layout="constrained")
        panels = figure.subplots(len(machines) + 1, len(cases), squeeze=False, height_ratios=[*[1.2] * len(machines), 1])  # fmt: skip
        for column, case in enumerate(cases):
            own = [each for each in found if (each["net"], each["batch"]) == case]
            for row, each in enumerate(own):
                _speedups(panels[row][column], each)
            panels[0][column].set_title(f"{case[0]}, batch {case[1]}", fontsize=9)
            _shares(panels[-1][column], own[0])
        for row, machine in enumerate(machines):
            panels[row][0].set_ylabel(f"speedup over one node\n{machine}")
        panels[-1][0].set_ylabel(f"{found[0]['nodes']} nodes\n{machines[0]}")
        lines = [Line2D([], [], color=COLOURS[each], ls=_MARKERS[each][1:], marker=_MARKERS[each][0], ms=4, label=each) for each in STRATEGIES]  # fmt: skip
        ideal = Line2D([], [], color="#999999", ls=":", lw=0.9, label="one per node")
        ring = Line2D(
            [], [], color="black", ls="", marker="o", mfc="none", ms=7, mew=0.8, label="fastest"
        )
        patches = [Patch(color=colour, label=label) for colour, label in _PARTS.values()]
        figure.legend(handles=[*lines, ideal, ring], loc="outside upper center", ncols=7, frameon=False, fontsize=7.5)  # fmt: skip
        figure.legend(handles=patches, loc="outside lower center", ncols=5, frameon=False, fontsize=7.5)  # fmt: skip
        save(figure, path)


def _speedups(axes: Axes, each: Record) -> None:
    axes.plot([1, each["nodes"]], [1, each["nodes"]], ":", color="#999999", lw=0.9)
    for strategy in STRATEGIES:
        points = [(row["nodes"], row["speedup"]) for row in each["rows"] if row["strategy"] == strategy]  # fmt: skip
        if points:
            face = "white" if strategy is Strategy.KRIZHEVSKY else COLOURS[strategy]
            axes.plot(*zip(*points, strict=True), _MARKERS[strategy], color=COLOURS[strategy], mfc=face, ms=3.5, lw=1.2)  # fmt: skip
    best = each["winner"]
    axes.plot(best["nodes"], best["speedup"], "o", color="black", mfc="none", ms=9, mew=0.8)
    said = f"{best['strategy']} {best['mesh']}: {best['speedup']:.3g}"
    axes.text(0.04, 0.96, said, transform=axes.transAxes, va="top", fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(min(0.5, *(row["speedup"] / 1.2 for row in each["rows"])), 3 * each["nodes"])
    axes.set_xticks([1, *NODES])
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("nodes")
    axes.grid(visible=True, alpha=0.25)


def _shares(axes: Axes, each: Record) -> None:
    """Draw what each strategy's step is spent on, the step's time beside it."""
    rows = [row for row in reversed(each["rows"]) if row["nodes"] == each["nodes"]]
    for place, row in enumerate(rows):
        start = 0.0
        for part, (colour, _) in _PARTS.items():
            share = 100 * row["shares"][part]
            axes.barh(place, share, left=start, color=colour, height=0.7)
            start += share
        axes.text(102, place, _time(row["step_time_s"]), va="center", fontsize=6.5)
    axes.set_yticks(range(len(rows)), [f"{row['strategy']}\n{row['mesh']}" for row in rows], fontsize=6.5)  # fmt: skip
    axes.set_xlim(0, 128)
    axes.set_xticks([0, 50, 100])
    axes.set_xlabel("share of a step, %")


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
