"""Utilisation as a picture: CPU, memory and bytes sent of each rank over time."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exec.errors import UsageError
from exec.runtime.monitor import Reading, Usage
from exec.runtime.utilisation import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800")
"""M. Okabe and K. Ito's colours, their yellow darker so that it shows as a line."""

Array = NDArray[np.float64]


def check_plot(path: Path) -> None:
    """Raise unless a plot can be drawn into ``path``, as far as can be told before it is.

    Raises:
        UsageError: the suffix is no format of pictures, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"monitor-plot must end in {', '.join(SUFFIXES)}, got {path}")
    if find_spec("matplotlib") is None:
        raise UsageError("monitor-plot needs matplotlib; install the plot extra: pip install 'stepcast[plot]'")  # fmt: skip


def draw_utilisation(path: Path, usages: Sequence[Usage], title: str) -> None:
    """Draw ``usages`` into ``path``: a line per rank, or beyond eight their median and extremes.

    Raises:
        UsageError: the file cannot be written.
    """
    import matplotlib as mpl  # noqa: PLC0415  # an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    grid_s = common_grid_s(usages)
    cpu = resampled(usages, grid_s, lambda reading: reading.cpu_s, is_rate=True)
    # One process holds the memory of all its ranks; it is drawn once.
    holders = usages[:1] if usages[0].shares_memory else usages
    memory = resampled(holders, grid_s, lambda reading: reading.memory_nbytes / MIB, is_rate=False)
    sent = resampled(usages, grid_s, lambda reading: reading.sent_nbytes / MIB, is_rate=True)
    memory_label = "memory of all, MiB" if usages[0].shares_memory else "memory, MiB"
    with mpl.rc_context({"svg.hashsalt": "stepcast", "font.size": 9}):
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True)
        for axes, values, label in zip(
            panels, (cpu, memory, sent), ("CPU, cores", memory_label, "sent, MiB/s"), strict=True
        ):
            _draw_panel(axes, grid_s, values, is_of_all=len(values) < len(usages))
            axes.set_ylabel(label)
            axes.set_ylim(0, 1.12 * float(values.max()) or 1)
            axes.margins(x=0)
            axes.grid(visible=True, alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylim(top=max(1.12, 1.12 * float(cpu.max())))
        panels[0].set_title(title, fontsize=10)
        if not sent.any():
            panels[2].text(0.5, 0.5, "nothing was sent", transform=panels[2].transAxes, ha="center")
        panels[-1].set_xlabel("time, s")
        figure.align_ylabels(panels)
        handles, labels = panels[0].get_legend_handles_labels()
        if len(usages) > 1:
            figure.legend(
                handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
                fontsize=8,
            )  # fmt: skip
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}") from error


def common_grid_s(usages: Sequence[Usage]) -> Array:
    """Return times that all ranks have lived through, as many as the rank with the fewest read."""
    start_s = max(usage.readings[0].time_s for usage in usages)
    end_s = min(usage.readings[-1].time_s for usage in usages)
    return np.linspace(start_s, end_s, min(len(usage.readings) for usage in usages))


def resampled(
    usages: Sequence[Usage], grid_s: Array, total: Callable[[Reading], float], *, is_rate: bool
) -> Array:
    """Return ``total`` of each rank at the times of the grid, or its rate between them.

    Totals are interpolated, so the rates add up to what was used. Shape (ranks, times or times - 1).
    """
    at_grid = np.array([
        np.interp(
            grid_s,
            [reading.time_s for reading in usage.readings],
            [total(reading) for reading in usage.readings],
        )
        for usage in usages
    ])  # fmt: skip
    return np.diff(at_grid) / np.diff(grid_s) if is_rate else at_grid


def _draw_panel(axes: "Axes", grid_s: Array, values: Array, *, is_of_all: bool) -> None:
    """Draw one line a row; rates, one fewer than times, as steps."""
    is_rate = values.shape[1] < len(grid_s)
    if is_rate:
        values = np.concatenate([values[:, :1], values], axis=1)
    style = "steps-pre" if is_rate else "default"
    if is_of_all:
        axes.plot(grid_s, values[0], color="#555555", lw=1.3)
    elif len(values) <= len(COLOURS):
        for rank, (row, colour) in enumerate(zip(values, COLOURS, strict=False)):
            axes.plot(grid_s, row, color=colour, lw=1.1, drawstyle=style, label=f"rank {rank}")
    else:
        middle = np.median(values, axis=0)
        axes.fill_between(
            grid_s, values.min(axis=0), values.max(axis=0), step="pre" if is_rate else None,
            color=COLOURS[0], alpha=0.22, lw=0, label="least to most",
        )  # fmt: skip
        label = f"median of {len(values)} ranks"
        axes.plot(grid_s, middle, color=COLOURS[0], lw=1.3, drawstyle=style, label=label)
