"""The search as a picture: accuracy as it was found, what the good trials share, and the makespan."""

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

from exec.errors import UsageError
from exec.search.forecast import Check, Row
from exec.search.journal import Contents
from exec.search.record import TrialResult
from exec.search.space import DIMENSIONS

BLUE, VERMILLION, GREY = "#0072b2", "#d55e00", "#999999"
"""Of M. Okabe and K. Ito's colours, which the colour-blind can tell apart."""
_GROUP_COLOURS = (BLUE, VERMILLION, "#009e73", "#cc79a7")


def check_plot(path: Path) -> None:
    """Raise :class:`UsageError` before any long work if a plot cannot be made at ``path``."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"plot must be a file in a folder that exists, got {path}")
    try:
        from matplotlib.backends import backend_agg  # noqa: F401, PLC0415  # an extra, and slow
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("plot needs matplotlib; install the plot extra: pip install 'stepcast[plot]'") from error  # fmt: skip
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise UsageError(f"plot must end in one of {', '.join(f'.{each}' for each in sorted(known))}, got {path}")  # fmt: skip


def draw_search(path: Path, contents: Contents, rows: Sequence[Row], checks: Sequence[Check]) -> None:  # fmt: skip
    """Draw the search into ``path``; its suffix chooses the format.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    check_plot(path)
    import matplotlib as mpl  # noqa: PLC0415  # checked above
    from matplotlib.figure import Figure  # noqa: PLC0415

    trials = sorted(contents.trials.values(), key=lambda each: (each.session, each.ended_s))
    with mpl.rc_context({"svg.hashsalt": "stepcast", "font.size": 9}):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        found, parallel, makespans = figure.subplots(1, 3, width_ratios=(1, 1.3, 1))
        _draw_found(found, trials)
        _draw_parallel(figure, parallel, [each for each in trials if each.accuracy is not None])
        _draw_makespans(makespans, rows, checks)
        search = contents.search
        figure.suptitle(f"{search['sampler']} search on {search['data']}, {len(trials)} trials", fontsize=10)  # fmt: skip
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}") from error


def _draw_found(axes: Any, trials: Sequence[TrialResult]) -> None:
    """Draw each trial's accuracy at the time it was known, and the best so far."""
    offset_s = before_s = 0.0
    session = -1
    times, accuracies, bests, failed = [], [], [], []
    for trial in trials:
        if trial.session != session:
            session, offset_s = trial.session, before_s
        before_s = offset_s + trial.ended_s
        if trial.accuracy is None:
            failed.append(before_s)
            continue
        times.append(before_s)
        accuracies.append(trial.accuracy)
        bests.append(max(accuracies))
    axes.plot(times, accuracies, "o", color=BLUE, ms=4, label="a trial")
    axes.step(times, bests, where="post", color=VERMILLION, lw=1.5, label="best so far")
    if failed:
        axes.plot(failed, [0] * len(failed), "x", color=GREY, label="failed")
    axes.set_xlabel("time, s")
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    axes.set_xlim(left=0)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(framealpha=0.8, fontsize=8, loc="lower right")


def _draw_parallel(figure: Any, axes: Any, trials: Sequence[TrialResult]) -> None:
    """Draw each trial as a line over the dimensions, coloured by its accuracy."""
    from matplotlib import colormaps  # noqa: PLC0415  # as above
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415
    from matplotlib.colors import Normalize  # noqa: PLC0415

    axes.set_xticks(range(len(DIMENSIONS)), [name.replace("_", "\n") for name in DIMENSIONS])
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    if not trials:
        return
    accuracies = [trial.accuracy or 0.0 for trial in trials]
    scale, colours = Normalize(min(accuracies), max(accuracies)), colormaps["viridis"]
    heights = {
        name: _heights(axes, place, [getattr(trial.config, name) for trial in trials], is_log=kind.is_log)
        for place, (name, kind) in enumerate(DIMENSIONS.items())
    }  # fmt: skip
    for i in sorted(range(len(trials)), key=lambda i: accuracies[i]):  # the best on top
        # Lines of equal values lie side by side, the better above.
        ys = [heights[name][i] + 0.06 * (float(scale(accuracies[i])) - 0.5) for name in DIMENSIONS]
        axes.plot(range(len(ys)), ys, color=colours(scale(accuracies[i])), lw=1.4, alpha=0.85)
    for place in range(len(DIMENSIONS)):
        axes.axvline(place, color=GREY, lw=0.8, zorder=0)
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=axes, label="validation accuracy", fraction=0.05
    )
    bar.ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")


def _heights(axes: Any, place: int, values: Sequence[float], *, is_log: bool) -> list[float]:
    """Return where on its axis each of ``values`` is, from 0 to 1, and write the ends there."""
    low, high = min(values), max(values)

    def height(value: float) -> float:
        if low == high:
            return 0.5
        if is_log:
            return log(value / low) / log(high / low)
        return (value - low) / (high - low)

    marks = sorted(set(values)) if len(set(values)) <= 5 else [low, high]
    for mark in marks:
        axes.annotate(f"{mark:.3g}", (place, height(mark)), (3, 3), textcoords="offset points",
                      fontsize=7, color="#555555")  # fmt: skip
    return [height(value) for value in values]


def _draw_makespans(axes: Any, rows: Sequence[Row], checks: Sequence[Check]) -> None:
    """Draw the makespan over the ranks, with its band, and what was measured."""
    for i, size in enumerate(sorted({row.ranks_per_trial for row in rows})):
        own = [row for row in rows if row.ranks_per_trial == size]
        colour = _GROUP_COLOURS[i % len(_GROUP_COLOURS)]
        ranks = [row.ranks for row in own]
        axes.plot(ranks, [row.makespan.time_s for row in own], "o-", color=colour, ms=4,
                  label=f"{size} rank{'s' * (size > 1)} a trial")  # fmt: skip
        lows, highs = ([getattr(row.makespan, end) for row in own] for end in ("low_s", "high_s"))
        axes.fill_between(ranks, lows, highs, color=colour, alpha=0.18, lw=0)
    if checks:
        measured = [(check.ranks, check.measured_s) for check in checks]
        axes.plot(*zip(*measured, strict=True), "k*", ms=10, zorder=3, label="measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("ranks")
    axes.set_ylabel("makespan, s (band: 90 %)")
    axes.set_xticks(sorted({row.ranks for row in rows}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
