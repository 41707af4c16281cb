"""Which figures a sweep has, and the files they go to, drawn from the sweep's file alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exec.errors import UsageError
from exec.sweeps.cells import Scalar
from exec.sweeps.journal import Journal
from exec.sweeps.results import Result, results_of

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

_STYLE: dict[Any, Any] = {"svg.hashsalt": "stepcast", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
_PANEL_INCHES = 3.2
_LEGEND_INCHES = 1.8


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure to draw: its file's name, its size in panels, and how."""

    name: str
    rows: int
    columns: int
    draw: "Callable[[FigureBase], None]"

    @property
    def inches(self) -> tuple[float, float]:
        """Its width and height."""
        width = _PANEL_INCHES * self.columns + (0.8 if self.columns == 1 else 0)
        return width + _LEGEND_INCHES, 2.2 * self.rows + 1.0


def check_plot(path: Path) -> None:
    """Raise :class:`UsageError` now, not after hours of training, if nothing can be drawn there."""
    if find_spec("matplotlib") is None:
        raise UsageError("plot needs matplotlib; install the plot extra: pip install 'stepcast[plot]'")  # fmt: skip
    if not path.absolute().parent.is_dir() or (path.is_file() and not path.suffix):
        raise UsageError(f"plot must be a folder, or a file in a folder that exists, got {path}")
    if path.suffix and not path.is_dir():
        from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415  # slow to import

        known = sorted(FigureCanvasBase.get_supported_filetypes())
        if path.suffix[1:].lower() not in known:
            raise UsageError(f"plot must end in one of {', '.join(known)}, got {path}")


def draw_sweep(path: Path, journal: Journal) -> list[Path]:
    """Draw the figures of ``journal``: into a folder one file each, or all into one file.

    Raises:
        UsageError: no axis has two values that ran, or a file cannot be written.
    """
    import matplotlib as mpl  # noqa: PLC0415  # an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    results = [result for result in results_of(journal.lines) if result.records]
    pictures = pictures_of(results, share_of(journal))
    if not pictures:
        raise UsageError("plot needs an axis of which two values were run")
    title = _title(journal, results)
    is_file = bool(path.suffix) and not path.is_dir()
    written = []
    try:
        with mpl.rc_context(_STYLE):
            if is_file:
                sizes = [picture.inches for picture in pictures]
                widest, heights = max(size[0] for size in sizes), [size[1] for size in sizes]
                figure = Figure(figsize=(widest, sum(heights)), layout="constrained")
                frames = figure.subfigures(len(pictures), 1, height_ratios=heights, squeeze=False)
                for frame, picture in zip(frames[:, 0], pictures, strict=True):
                    picture.draw(frame)
                figure.suptitle(title, fontsize=9)
                written.append(_save(figure, path))
            else:
                path.mkdir(exist_ok=True)
                for picture in pictures:
                    figure = Figure(figsize=picture.inches, layout="constrained")
                    picture.draw(figure)
                    figure.suptitle(title, fontsize=9)
                    written.append(_save(figure, path / f"{picture.name}.png"))
    except OSError as error:
        raise UsageError(f"plot {path} cannot be written: {error.strerror}") from error
    return written


def share_of(journal: Journal) -> str:
    """Return what the ranks of ``journal`` were: ranks or threads."""
    return "threads" if journal.header.transport == "threads" else "ranks"


def pictures_of(results: Sequence[Result], share: str) -> list[Picture]:
    """Return the figures for the axes of ``results`` that vary."""
    from exec.sweeps.figures import (  # noqa: PLC0415  # matplotlib
        draw_against,
        draw_curves,
        draw_speedup,
        look_of,
    )

    values = varying(results)
    pictures = []

    def add(name: str, rows: int, x: str | None, draw: Callable[..., None]) -> None:
        look = look_of(values, x, share)
        columns = len(look.panels(results, x))
        pictures.append(Picture(name, rows, columns, partial(draw, results=results, look=look)))

    for x in values:
        if x not in ("ranks", "learning_rate") and not isinstance(values[x][0], (str, bool)):
            add(x, 2, x, partial(draw_against, x=x))
    if "ranks" in values:
        add("speedup", 1, "ranks", draw_speedup)
    if values and any(len(result.curve()) > 1 for result in results):
        add("accuracy", 1, None, draw_curves)
    return pictures


def varying(results: Sequence[Result]) -> dict[str, list[Scalar]]:
    """Return the values of each axis that has several, numbers in their order."""
    found: dict[str, list[Scalar]] = {}
    for name in results[0].cell if results else ():
        values = list(dict.fromkeys(result.cell[name] for result in results))
        if len(values) > 1:
            found[name] = values if isinstance(values[0], str) else sorted(values)
    return found


def _title(journal: Journal, results: Sequence[Result]) -> str:
    """Return what all the results share."""
    varies = varying(results)
    records = [record for result in results for record in result.records.values()]
    nets, sets = (", ".join(dict.fromkeys(each)) for each in zip(*((r.net, r.data) for r in records), strict=True))  # fmt: skip
    share = share_of(journal)
    same = [f"{share if name == 'ranks' else name.replace('_', ' ')} {value}" for name, value in results[0].cell.items() if name not in varies]  # fmt: skip
    runs = sorted({len(result.records) for result in results})
    bars = f"\nmedian of {runs[0]}{f' to {runs[-1]}' * (len(runs) > 1)} runs; a bar is their range" if runs[-1] > 1 else ""  # fmt: skip
    first = ", ".join([f"{nets} on {sets}", *same])
    return f"{first}\n{journal.header.transport} on {journal.header.cpu}{bars}"


def _save(figure: Any, path: Path) -> Path:
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=150, metadata=metadata)
    return path
