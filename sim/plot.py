"""The forecast as a picture: speedup with its band, and the step time of each strategy."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exec.errors import UsageError
from exec.plan.strategy import Strategy
from sim.forecast import Forecast

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""M. Okabe and K. Ito's colours, which the colour-blind can tell apart."""
_MESHES = {
    Strategy.SERIAL: "#555555",
    Strategy.DATA: PALETTE[0],
    Strategy.PIPELINE: PALETTE[1],
    Strategy.TENSOR: PALETTE[2],
    Strategy.HYBRID: PALETTE[3],
}
COLOURS = {each: _MESHES.get(each, PALETTE[4]) for each in Strategy}


def draw_forecast(path: Path, rows: Sequence[Forecast], serial: Forecast, title: str) -> None:
    """Draw ``rows`` into ``path``; its suffix chooses the format.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    by_strategy: dict[Strategy, list[Forecast]] = defaultdict(list)
    for row in rows:
        by_strategy[row.strategy].append(row)
    with new_figure(path, (9, 3.8)) as figure:
        speedups, times = figure.subplots(1, 2)
        for strategy in sorted(by_strategy, key=list(Strategy).index):
            own = by_strategy[strategy]
            nodes = [row.nodes for row in own]
            middle, low, high = zip(*(row.speedup_over(serial) for row in own), strict=True)
            colour = COLOURS[strategy]
            speedups.plot(nodes, middle, "o-", color=colour, label=strategy, ms=4)
            if len(own) > 1:
                speedups.fill_between(nodes, low, high, color=colour, alpha=0.18, lw=0)
            else:
                speedups.vlines(nodes, low, high, color=colour, alpha=0.4, lw=3)
            times.plot(nodes, [row.step_time_s * 1e3 for row in own], "o-", color=colour, ms=4)
        ends = [1, max(row.nodes for row in rows)]
        per_node = max(row.ranks / row.nodes for row in rows)
        ideal = [count * per_node for count in ends]
        speedups.plot(ends, ideal, "--", color="#999999", lw=1, label="one per rank")
        bounds = [row.speedup_over(serial) for row in rows]
        lowest, highest = min(each[1] for each in bounds), max(each[2] for each in bounds)
        speedups.set_ylim(lowest / 1.2, highest * 1.3)
        for axes, label in ((speedups, "speedup over one rank"), (times, "step time, ms")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xlabel("nodes")
            axes.set_ylabel(label)
            axes.set_xticks(sorted({row.nodes for row in rows}))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.grid(visible=True, alpha=0.25)
        speedups.legend(frameon=False, fontsize=8)
        figure.suptitle(f"{title} (bands: 90 %)", fontsize=10)


def draw_comparison(
    path: Path, curves: Mapping[str, Sequence[tuple[int, float]]], serial_s: float, title: str
) -> None:
    """Draw the epoch time of each scheme against the nodes into ``path``.

    ``curves`` are ``(nodes, seconds)`` by the scheme's name; ``serial_s`` is one rank's epoch.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    markers, styles = "osv^D", ("-", "--", ":")
    with new_figure(path, (9, 5)) as figure:
        axes = figure.subplots()
        drawn = {name: points for name, points in curves.items() if len(points) > 1}
        for i, (name, points) in enumerate(drawn.items()):
            nodes, times_s = zip(*points, strict=True)
            look = {"marker": markers[i % len(markers)], "ls": styles[i // len(PALETTE)], "color": PALETTE[i % len(PALETTE)]}  # fmt: skip
            axes.plot(nodes, [time_s * 1e3 for time_s in times_s], label=name, ms=4, **look)
        axes.axhline(serial_s * 1e3, color="#999999", lw=1, ls="-.", label="one rank")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("nodes")
        axes.set_ylabel("time of an epoch, ms")
        axes.set_xticks(sorted({nodes for points in drawn.values() for nodes, _ in points}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.yaxis.set_minor_formatter("{x:.3g}")
        axes.grid(visible=True, alpha=0.25)
        figure.legend(frameon=False, fontsize=8, loc="outside right center")
        figure.suptitle(title, fontsize=10)


@contextmanager
def new_figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a figure of ``size`` inches, and save it; the suffix of ``path`` chooses the format."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("plot needs matplotlib; install the plot extra: pip install 'stepcast[plot]'") from error  # fmt: skip
    with mpl.rc_context({"svg.hashsalt": "stepcast", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}") from error
