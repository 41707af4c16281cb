"""A sweep of forecasts as a picture: samples trained in a second against nodes."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exec.errors import UsageError
from sim.plot import PALETTE, new_figure
from sim.sweep_file import Line

_MOST_LINES = 3 * len(PALETTE)
_MOST_TICKS = 14


def check_curves(axes: Mapping[str, Sequence[object]]) -> None:
    """Raise :class:`UsageError` if the values of ``axes`` make too many lines to tell apart."""
    count = math.prod(len(values) for name, values in axes.items() if name != "nodes")
    if count > _MOST_LINES:
        raise UsageError(f"plot must have at most {_MOST_LINES} lines to be read, got {count}; give fewer values, or read the file")  # fmt: skip


def draw_points(path: Path, lines: Sequence[Line]) -> None:
    """Draw the points that were answered into ``path``, a line for each combination of the other axes.

    Points with an interval have a band.

    Raises:
        UsageError: there are too many lines to tell apart, matplotlib is not installed, or the file
            cannot be written.
    """
    cells = [line["cell"] for line in lines]
    values = {name: list(dict.fromkeys(cell[name] for cell in cells)) for name in cells[0]}
    varied = [name for name in values if name != "nodes" and len(values[name]) > 1]
    curves: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if "refused" not in line:
            curves[_words(varied, line["cell"])].append(line)
    check_curves({"lines": list(curves)})
    with new_figure(path, (9, 5)) as figure:
        axes = figure.subplots()
        for i, (words, points) in enumerate(curves.items()):
            points.sort(key=lambda line: int(line["cell"]["nodes"]))
            nodes = [line["cell"]["nodes"] for line in points]
            colour = PALETTE[i % len(PALETTE)]
            style = ("-", "--", ":")[i // len(PALETTE)]
            axes.plot(nodes, [line["samples_per_s"] for line in points], label=words, marker="o", ms=3, color=colour, ls=style)  # fmt: skip
            if all("step_time_low_s" in line for line in points):
                low, high = ([line["samples_per_s"] * line["step_time_s"] / line[end] for line in points] for end in ("step_time_high_s", "step_time_low_s"))  # fmt: skip
                axes.fill_between(nodes, low, high, color=colour, alpha=0.15, lw=0)
        _scale(axes, values["nodes"])
        common = [name for name in values if name != "nodes" and len(values[name]) == 1]
        bands = " (bands: 90 %)" if "step_time_low_s" in next(iter(curves.values()))[0] else ""
        figure.suptitle(_words(common, cells[0]) + bands, fontsize=10)
        if varied:
            figure.legend(frameon=False, fontsize=8, loc="outside right center")


def _scale(axes: Any, nodes: Sequence[int]) -> None:
    """Make both axes logarithmic, with numbers that people read."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("nodes")
    axes.set_ylabel("samples trained in a second")
    if len(nodes) <= _MOST_TICKS:
        axes.set_xticks(sorted(nodes))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    least, most = axes.get_ylim()
    steps = (1, 2, 5) if most / least < 1000 else (1,)
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    if most / least < 5:
        ticks = axes.get_yticks() if not any(least <= tick <= most for tick in ticks) else ticks
    axes.set_yticks([tick for tick in ticks if least <= tick <= most])
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.grid(visible=True, alpha=0.25)


def _words(names: Sequence[str], cell: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {cell.get(name)}" for name in names)
