"""A sweep of forecasts as a picture: samples trained in a second against nodes."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from exec.errors import UsageError
from sim.plot import PALETTE, new_figure
from sim.sweep_file import Line

_MOST_LINES = 3 * len(PALETTE)


def draw_points(path: Path, lines: Sequence[Line]) -> None:
    """Draw the points that were answered into ``path``, a line for each combination of the other axes.

    Raises:
        UsageError: there are too many lines to tell apart, matplotlib is not installed, or the file
            cannot be written.
    """
    cells = [line["cell"] for line in lines]
    varied = [name for name in cells[0] if name != "nodes" and len({cell.get(name) for cell in cells}) > 1]  # fmt: skip
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        if "refused" not in line:
            words = ", ".join(f"{name.replace('_', ' ')} {line['cell'].get(name)}" for name in varied)  # fmt: skip
            curves[words].append((line["cell"]["nodes"], line["samples_per_s"]))
    if len(curves) > _MOST_LINES:
        raise UsageError(f"plot must have at most {_MOST_LINES} lines to be read, got {len(curves)}; give fewer values, or read the file")  # fmt: skip
    with new_figure(path, (9, 5)) as figure:
        axes = figure.subplots()
        for i, (words, points) in enumerate(curves.items()):
            nodes, rates = zip(*sorted(points), strict=True)
            look = {"color": PALETTE[i % len(PALETTE)], "ls": ("-", "--", ":")[i // len(PALETTE)]}
            axes.plot(nodes, rates, label=words, marker="o", ms=3, **look)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("nodes")
        axes.set_ylabel("samples trained in a second")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(visible=True, alpha=0.25)
        if varied:
            figure.legend(frameon=False, fontsize=8, loc="outside right center")
