"""The classic figures: time and accuracy against an axis, speedup against ranks, accuracy against
time.

A point is the median of a cell's runs, a bar reaches from the least to the greatest, and a hollow
point shared its cores with others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D

from exec.sweeps.cells import Cell, Scalar
from exec.sweeps.results import Result, Spread, speedup

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""M. Okabe and K. Ito's colours, which the colour-blind can tell apart."""
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BY_COLOUR = ("strategy", "learning_rate", "batch", "ranks")  # the first of these that varies


@dataclass(frozen=True, slots=True)
class Look:
    """How the axes that vary are told apart: one by colour, one by line, the rest by panel.

    ``values`` are those of every axis that varies; ``share`` says what ranks are: ranks or threads.
    """

    values: Mapping[str, list[Scalar]]
    colour: str | None
    line: str | None
    share: str

    def panels(self, results: Sequence[Result], x: str | None) -> dict[str, list[Result]]:
        """Return the results of each panel by its title."""
        found: dict[str, list[Result]] = defaultdict(list)
        for result in results:
            found[self.words(result.cell, (self.colour, self.line, x))].append(result)
        return found

    def words(self, cell: Cell, without: Sequence[str | None]) -> str:
        """Return what tells ``cell`` from others, but for the axes ``without``."""
        names = [name for name in self.values if name not in without]
        return ", ".join(f"{self.name(name)} {cell[name]}" for name in names)

    def name(self, axis: str) -> str:
        """Return the name of ``axis`` for people."""
        return self.share if axis == "ranks" else axis.replace("_", " ")

    def style(self, cell: Cell) -> dict[str, str]:
        """Return the colour, line and marker of ``cell``."""
        i, j = (
            self.values[axis].index(cell[axis]) if axis else 0 for axis in (self.colour, self.line)
        )
        return {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": _LINES[(j + i // len(_COLOURS)) % len(_LINES)],
            "marker": _MARKERS[j % len(_MARKERS)],
        }


def look_of(values: Mapping[str, list[Scalar]], x: str | None, share: str) -> Look:
    """Return the look of a figure with ``x`` along it."""
    others = sorted(
        (name for name in values if name != x),
        key=lambda name: _BY_COLOUR.index(name) if name in _BY_COLOUR else len(_BY_COLOUR),
    )
    return Look(values, *(*others, None, None)[:2], share)


def draw_against(frame: FigureBase, results: Sequence[Result], x: str, look: Look) -> None:
    """Draw the time of an epoch and the test accuracy against the axis ``x``."""
    panels = look.panels(results, x)
    grid = frame.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row")
    for column, (title, own) in enumerate(panels.items()):
        times, accuracies = grid[:, column]
        times.set_title(title, fontsize=9)
        for line in _lines(own, x):
            style = look.style(line[0].cell)
            at = [float(result.cell[x]) for result in line]
            is_hollow = [result.is_oversubscribed for result in line]
            _plot(times, at, [result.epoch_time_s for result in line], is_hollow, style)
            _plot(accuracies, at, [_percent(result.test_accuracy) for result in line], is_hollow, style)  # fmt: skip
        _scale_x(accuracies, look.values[x])
        accuracies.set_xlabel(look.name(x))
    times, accuracies = grid[:, 0]
    low, high = times.get_ylim()
    if low > 0 and high / low > 20:
        times.set_yscale("log")
    else:
        times.set_ylim(bottom=0)
    times.set_ylabel("time of an epoch, s")
    accuracies.set_ylabel("test accuracy, %")
    _legend(frame, results, look)


def draw_speedup(frame: FigureBase, results: Sequence[Result], look: Look) -> None:
    """Draw the speedup against the ranks, with the line of one per rank."""
    panels = look.panels(results, "ranks")
    grid = frame.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    found = {id(result): speedup(result, results) for result in results}
    bases = sorted({each.base.ranks for each in found.values() if each})
    ranks = look.values["ranks"]
    for axes, (title, own) in zip(grid, panels.items(), strict=True):
        axes.set_title(title, fontsize=9)
        ends = [bases[0], float(ranks[-1])]
        axes.plot(ends, [end / bases[0] for end in ends], "--", color="#999999", lw=1)
        for line in _lines(own, "ranks"):
            known = [(result, each.times) for result in line if (each := found[id(result)])]
            _plot(axes, [result.ranks for result, _ in known], [times for _, times in known],
                  [result.is_oversubscribed for result, _ in known], look.style(line[0].cell))  # fmt: skip
        if _scale_x(axes, ranks):
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter("{x:.3g}")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(look.share)
    one = look.share.removesuffix("s")
    over = f"{bases[0]} {look.share if bases[0] > 1 else one}" if len(bases) == 1 else "the fewest"
    grid[0].set_ylabel(f"speedup over {over}")
    _legend(frame, results, look, Line2D([], [], color="#999999", ls="--", lw=1, label=f"one per {one}"))  # fmt: skip


def draw_curves(frame: FigureBase, results: Sequence[Result], look: Look) -> None:
    """Draw the test accuracy after each epoch against the time trained until then."""
    panels = look.panels(results, None)
    grid = frame.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, own) in zip(grid, panels.items(), strict=True):
        axes.set_title(title, fontsize=9)
        for result in own:
            times, accuracies = zip(*result.curve(), strict=True)
            face = "white" if result.is_oversubscribed else None
            axes.plot(times, [100 * each for each in accuracies], ms=4, lw=1.2, mfc=face, **look.style(result.cell))  # fmt: skip
        axes.set_xlim(left=0)
        axes.grid(visible=True, alpha=0.25)
        axes.set_xlabel("time of training, s")
    grid[0].set_ylabel("test accuracy, %")
    _legend(frame, results, look)


def _lines(results: Sequence[Result], x: str) -> Iterator[list[Result]]:
    """Yield the results that differ in ``x`` alone, in its order."""
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[str([(k, v) for k, v in result.cell.items() if k != x])].append(result)
    for line in found.values():
        yield sorted(line, key=lambda result: result.cell[x])


def _plot(
    axes: Axes, at: Sequence[float], spreads: Sequence[Spread], is_hollow: Sequence[bool],
    style: Mapping[str, str],
) -> None:  # fmt: skip
    middle = [each.middle for each in spreads]
    bars = [[each.middle - each.low for each in spreads], [each.high - each.middle for each in spreads]]  # fmt: skip
    axes.plot(at, middle, color=style["color"], ls=style["linestyle"], lw=1.2)
    axes.errorbar(at, middle, bars, fmt="none", ecolor=style["color"], elinewidth=1, capsize=2)
    face = ["white" if each else style["color"] for each in is_hollow]
    axes.scatter(at, middle, s=22, c=face, edgecolors=style["color"], marker=style["marker"], zorder=3)  # fmt: skip
    axes.grid(visible=True, alpha=0.25)


def _scale_x(axes: Axes, values: Sequence[Scalar]) -> bool:
    """Put a tick at each of ``values``; return whether the scale is logarithmic."""
    numbers = [float(value) for value in values]
    is_log = numbers[0] > 0 and numbers[-1] / numbers[0] >= 8
    if is_log:
        axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.minorticks_off()
    return is_log


def _percent(found: Spread) -> Spread:
    return Spread(100 * found.middle, 100 * found.low, 100 * found.high)


def _legend(frame: FigureBase, results: Sequence[Result], look: Look, *more: Line2D) -> None:
    """Explain colours, lines and hollow points beside the panels."""
    handles = []
    for axis, told in ((look.colour, ("color",)), (look.line, ("linestyle", "marker"))):
        for value in look.values[axis] if axis else []:
            example = next(each.cell for each in results if each.cell[axis] == value)
            style = {"color": "#555555", "linestyle": "-", "marker": ""}
            style |= {key: look.style(example)[key] for key in told}
            handles.append(Line2D([], [], label=f"{look.name(axis)} {value}", lw=1.4, ms=4, **style))  # fmt: skip
    handles += more
    if any(result.is_oversubscribed for result in results):
        handles.append(Line2D([], [], ls="", marker="o", mfc="white", mec="#555555", ms=4, label=f"hollow: {look.share}\nshared cores"))  # fmt: skip
    if handles:
        frame.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
