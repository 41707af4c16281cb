"""Evidence as a picture: forecast over measured against measured, with intervals."""

from collections.abc import Sequence
from pathlib import Path

from sim.evidence import COVERAGE, Evidence
from sim.plot import PALETTE, new_figure


def draw_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Draw every case into ``path``; its suffix chooses the format.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    with new_figure(path, (8, 4.2)) as figure:
        from matplotlib import ticker  # noqa: PLC0415  # an extra, and slow to import

        axes = figure.subplots()
        axes.axhline(1.0, color="#555555", lw=1)
        for i, each in enumerate(evidence):
            measured = [case.measured_s for case in each.cases]
            ratios = [case.forecast_s / case.measured_s for case in each.cases]
            low = [case.low_s / case.measured_s for case in each.cases]
            high = [case.high_s / case.measured_s for case in each.cases]
            colour = PALETTE[i % len(PALETTE)]
            axes.vlines(measured, low, high, color=colour, alpha=0.35, lw=2)
            axes.plot(measured, ratios, "o", color=colour, ms=4, label=each.source)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured, s")
        axes.set_ylabel("forecast over measured")
        # Ratios seldom span a decade, whose ticks alone would then be too few.
        axes.yaxis.set_major_locator(ticker.MaxNLocator(7))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.grid(visible=True, alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
        figure.suptitle(f"Forecasts of what was not fitted (bars: {COVERAGE:.0%} intervals)", fontsize=10)  # fmt: skip
