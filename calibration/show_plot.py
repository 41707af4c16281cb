"""A Machine as a picture: points that were measured, fits and their 90 % bands, over bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibration.collective_model import INTERVAL_Z, CollectiveModel
from calibration.importers.measured import Operation
from calibration.machine import Curve, Machine
from exec.errors import UsageError

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""M. Okabe and K. Ito's colours, which the colour-blind can tell apart."""


def draw_machine(path: Path, machine: Machine, curves: Mapping[str, Curve]) -> None:
    """Draw ``curves`` in one panel and each collective in one of its own.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  # only when asked for
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("plot needs matplotlib: pip install 'stepcast[plot]'") from error
    models = {op: model for op, model in machine.collectives.items() if op is not Operation.BARRIER}
    num_panels = bool(curves) + len(models)
    columns = min(num_panels, 3)
    rows = -(-num_panels // columns)
    with mpl.rc_context({"svg.hashsalt": "stepcast", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
        panels = list(np.atleast_1d(figure.subplots(rows, columns)).flat)
        for panel in panels[num_panels:]:
            panel.set_axis_off()
        if curves:
            _draw_curves(panels[0], curves)
        for panel, (operation, model) in zip(panels[bool(curves) :], models.items(), strict=False):
            _draw_collective(panel, operation, model)
        figure.suptitle(machine.name)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise UsageError(f"plot {path} cannot be written: {error}") from error


def _draw_curves(axes: Any, curves: Mapping[str, Curve]) -> None:
    for i, (name, curve) in enumerate(curves.items()):
        high = curve.nbytes.high if curve.nbytes.high < 1e12 else 1e9
        sizes = np.geomspace(max(curve.nbytes.low, 1.0), max(high, 2.0), 200)
        times = np.array([alpha + beta * n for n in sizes for alpha, beta in [curve.at(n)]])
        _line(axes, sizes, times, np.full_like(times, curve.rel_sigma), name, _COLOURS[i % len(_COLOURS)])  # fmt: skip
    _finish(axes, "links")


def _draw_collective(axes: Any, operation: Operation, model: CollectiveModel) -> None:
    for i, series in enumerate(model.series):
        colour = _COLOURS[i % len(_COLOURS)]
        drawn = [(n, t) for n, t in zip(series.nbytes, series.times_s, strict=True) if n]
        if not drawn:
            continue
        low, high = drawn[0][0], drawn[-1][0]
        sizes = np.geomspace(low, high * 4, 200)
        times, sigmas = np.array([series.at(n) for n in sizes]).T
        axes.plot(*zip(*[(n, t * 1e6) for n, t in drawn], strict=True), "o", color=colour, ms=3)
        _line(axes, sizes, times, sigmas, f"{series.ranks} ranks on {series.nodes}", colour)
    _finish(axes, operation)


def _line(axes: Any, sizes: Any, times_s: Any, sigmas: Any, label: str, colour: str) -> None:
    margin = np.exp(INTERVAL_Z * sigmas)
    axes.plot(sizes, times_s * 1e6, "-", color=colour, lw=1, label=label)
    axes.fill_between(sizes, times_s * 1e6 / margin, times_s * 1e6 * margin, color=colour, alpha=0.18, lw=0)  # fmt: skip


def _finish(axes: Any, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="us", title=title)
    axes.legend(frameon=False)
