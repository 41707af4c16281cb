"""The forecast as a picture: speedup with its band, and the step time of each strategy."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from exec.errors import UsageError
from exec.plan.strategy import Strategy
from sim.forecast import Forecast

COLOURS = {
    Strategy.SERIAL: "#555555",
    Strategy.DATA: "#0072b2",
    Strategy.PIPELINE: "#d55e00",
    Strategy.TENSOR: "#009e73",
    Strategy.HYBRID: "#cc79a7",
}
"""M. Okabe and K. Ito's colours, which the colour-blind can tell apart."""


def draw_forecast(path: Path, rows: Sequence[Forecast], serial: Forecast, title: str) -> None:
    """Draw ``rows`` into ``path``; its suffix chooses the format.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("plot needs matplotlib; install the plot extra: pip install 'stepcast[plot]'") from error  # fmt: skip
    by_strategy: dict[Strategy, list[Forecast]] = defaultdict(list)
    for row in rows:
        by_strategy[row.strategy].append(row)
    with mpl.rc_context({"svg.hashsalt": "stepcast", "font.size": 9}):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
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
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}") from error
