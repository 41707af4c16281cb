"""The classic figures: time and accuracy against an axis, speedup against ranks, accuracy against
time.

A point is the median of a cell's runs, a bar reaches from the least to the greatest, and a hollow
point shared its cores with others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from exec.sweeps.cells import Cell, Scalar
from exec.sweeps.results import Result, Spread, speedup

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""M. Okabe and K. Ito's colours, which the colour-blind can tell apart."""
Dashes = Literal["-", "--", ":", "-.", ""]
_LINES: tuple[Dashes, ...] = ("-", "--", ":", "-.")
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

    def style(self, cell: Cell) -> "Style":
        """Return the look of ``cell``."""
        i, j = (
            self.values[axis].index(cell[axis]) if axis else 0 for axis in (self.colour, self.line)
        )
        lines = (j + i // len(_COLOURS)) % len(_LINES)  # colours that come again are dashed
        return Style(_COLOURS[i % len(_COLOURS)], _LINES[lines], _MARKERS[j % len(_MARKERS)])


@dataclass(frozen=True, slots=True)
class Style:
    """A line's colour, its dashes and its marker."""

    colour: str
    line: Dashes
    marker: str


def look_of(values: Mapping[str, list[Scalar]], x: str | None, share: str) -> Look:
    """Return the look of a figure with ``x`` along it."""
    others = sorted(
        (name for name in values if name != x),
        key=lambda name: _BY_COLOUR.index(name) if name in _BY_COLOUR else len(_BY_COLOUR),
    )
    colour, line = (*others, None, None)[:2]
    return Look(values, colour, line, share)


def draw_against(frame: FigureBase, results: Sequence[Result], x: str, look: Look) -> None:
    """Draw the time of an epoch and the test accuracy against the axis ``x``."""
    panels = look.panels(results, x)
    grid = frame.subplots(2, len(panels), squeeze=False, sharex=True, sharey="row")
    for column, (title, own) in enumerate(panels.items()):
        times, accuracies = grid[:, column]
        times.set_title(title, fontsize=9)
        for line, shift in _lines(own, x):
            style = look.style(line[0].cell)
            _plot(times, x, [(each, each.epoch_time_s) for each in line], style, shift)
            _plot(accuracies, x, [(each, _percent(each.test_accuracy)) for each in line], style, shift)  # fmt: skip
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
        for line, shift in _lines(own, "ranks"):
            known = [(result, each.times) for result in line if (each := found[id(result)])]
            _plot(axes, "ranks", known, look.style(line[0].cell), shift)
        if _scale_x(axes, ranks):
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter("{x:.3g}")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(look.share)
    one = look.share.removesuffix("s")
    over = f"{bases[0]} {look.share if bases[0] > 1 else one}" if len(bases) == 1 else "the fewest"
    grid[0].set_ylabel(f"speedup over {over}")
    _legend(frame, results, look, _example(f"one per {one}", "#999999", "--", ""))


def draw_curves(frame: FigureBase, results: Sequence[Result], look: Look) -> None:
    """Draw the test accuracy after each epoch against the time trained until then."""
    panels = look.panels(results, None)
    grid = frame.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (title, own) in zip(grid, panels.items(), strict=True):
        axes.set_title(title, fontsize=9)
        for result in own:
            times, accuracies = zip(*result.curve(), strict=True)
            style = look.style(result.cell)
            face = "white" if result.is_oversubscribed else style.colour
            axes.plot(times, [100 * each for each in accuracies], color=style.colour, ls=style.line,
                      lw=1.2, marker=style.marker, ms=4, mfc=face)  # fmt: skip
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(visible=True, alpha=0.25)
        axes.set_xlabel("time of training, s")
    grid[0].set_ylabel("test accuracy, %")
    _legend(frame, results, look)


def _lines(results: Sequence[Result], x: str) -> Iterator[tuple[list[Result], float]]:
    """Yield the results that differ in ``x`` alone, in its order, and by how many points to shift
    them, so that what is equal does not hide.
    """
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[str([(k, v) for k, v in result.cell.items() if k != x])].append(result)
    step = min(5.0, 20.0 / len(found))
    for i, line in enumerate(found.values()):
        ordered = sorted(line, key=lambda result: float(result.cell[x]))
        yield ordered, (i - (len(found) - 1) / 2) * step


def _plot(
    axes: Axes, x: str, found: Sequence[tuple[Result, Spread]], style: Style, shift: float,
) -> None:  # fmt: skip
    """Draw one line, its bars and its points, ``shift`` points to the right."""
    at = [float(result.cell[x]) for result, _ in found]
    middle = [each.middle for _, each in found]
    bars = [[each.middle - each.low for _, each in found], [each.high - each.middle for _, each in found]]  # fmt: skip
    face = ["white" if result.is_oversubscribed else style.colour for result, _ in found]
    moved = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    axes.plot(at, middle, color=style.colour, ls=style.line, lw=1.2, transform=moved)
    axes.errorbar(at, middle, bars, fmt="none", ecolor=style.colour, elinewidth=1, capsize=2, transform=moved)  # fmt: skip
    axes.scatter(at, middle, s=20, c=face, edgecolors=style.colour, marker=style.marker, zorder=3, transform=moved)  # fmt: skip
    axes.update_datalim([(a, v) for a, (_, each) in zip(at, found, strict=True) for v in (each.low, each.high)])  # fmt: skip
    axes.autoscale_view()
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
    for axis in filter(None, (look.colour, look.line)):
        for value in look.values[axis]:
            style = look.style(next(each.cell for each in results if each.cell[axis] == value))
            name = f"{look.name(axis)} {value}"
            if axis == look.colour:
                handles.append(_example(name, style.colour, "-", ""))
            else:
                handles.append(_example(name, "#555555", style.line, style.marker))
    handles += more
    if any(result.is_oversubscribed for result in results):
        handles.append(_example(f"hollow: {look.share}\nshared cores", "#555555", "", "o"))
    if handles:
        frame.legend(
            handles=handles, loc="outside right center", frameon=False, fontsize=8, handlelength=3.2
        )


def _example(label: str, colour: str, line: Dashes, marker: str) -> Line2D:
    """Return a legend's line, or hollow marker if there is no line."""
    face = colour if line else "white"
    return Line2D([], [], color=colour, ls=line, lw=1.2, marker=marker, ms=4, mfc=face, label=label)
