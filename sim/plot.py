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
        for strategy, own in by_strategy.items():
            nodes = [row.nodes for row in own]
            points = [row.speedup_over(serial) for row in own]
            colour = COLOURS[strategy]
            speedups.plot(nodes, [p[0] for p in points], "o-", color=colour, label=strategy, ms=4)
            speedups.fill_between(nodes, [p[1] for p in points], [p[2] for p in points],
                                  color=colour, alpha=0.18, lw=0)  # fmt: skip
            times.plot(nodes, [row.step_time_s * 1e3 for row in own], "o-", color=colour, ms=4)
        most = [1, max(row.nodes for row in rows)]
        per_node = max(row.ranks / row.nodes for row in rows)
        ideal = [count * per_node for count in most]
        speedups.plot(most, ideal, "--", color="#999999", lw=1, label="one per rank")
        top = max(row.speedup_over(serial)[2] for row in rows)
        speedups.set_ylim(bottom=min(0.5, *(row.speedup_over(serial)[1] for row in rows)), top=1.3 * top)  # fmt: skip
        for axes, label in ((speedups, "speedup over one rank"), (times, "step time, ms")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("nodes")
            axes.set_ylabel(label)
            axes.set_xticks(sorted({row.nodes for row in rows}))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.grid(visible=True, alpha=0.25)
        speedups.legend(frameon=False, fontsize=8)
        figure.suptitle(f"{title} (bands: 90 %)", fontsize=10)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}") from error
