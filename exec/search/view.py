"""The search as it runs: a table that is redrawn on a terminal, elsewhere a line for each trial."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from exec.search.makespan import seconds
from exec.search.record import State, TrialResult, best_trial
from exec.search.space import DIMENSIONS, Config
from exec.search.trial import Trial

_MARGIN = 8  # lines of the terminal that are not rows
_MOST_ROWS = 40


class SearchView:
    """Shows trials on ``out`` as they start and finish; a context manager."""

    def __init__(self, out: Console, finished: list[TrialResult], num_trials: int) -> None:
        self._out, self._num_trials = out, num_trials
        self._finished = list(finished)
        self._running: dict[int, Config] = {}
        self._live = Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else None  # fmt: skip

    def start(self, trial: Trial) -> None:
        """Show that ``trial`` is handed out."""
        self._running[trial.index] = trial.config
        self._redraw()

    def finish(self, result: TrialResult) -> None:
        """Show what a trial came to."""
        self._running.pop(result.index, None)
        self._finished.append(result)
        if self._live is None:
            self._out.print(f"{line(result)}  ({self._progress()})")
        self._redraw()

    def _progress(self) -> str:
        best = best_trial(self._finished)
        so_far = f"; best {best.accuracy:.2%}, trial {best.index}" if best else ""
        return f"{len(self._finished)} of {self._num_trials}{so_far}"

    def _redraw(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        rows = min(_MOST_ROWS, max(self._out.height - _MARGIN, 4))
        running = sorted(self._running.items())[: rows // 2]
        recent = self._finished[-(rows - len(running)) :]
        table = trial_table(recent, best_trial(self._finished))
        for index, config in running:
            table.add_row(str(index), *_cells(config), "running", style="dim")
        table.caption = self._progress()
        return table

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if self._live is not None:
            self._live.stop()


def trial_table(results: list[TrialResult], best: TrialResult | None) -> Table:
    """Return ``results`` as a table; ``best`` is bold."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for heading in ("trial", *(name.removeprefix("learning_") for name in DIMENSIONS), "state", "accuracy", "loss", "time"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for result in results:
        is_best = best is not None and result.index == best.index
        table.add_row(
            str(result.index), *_cells(result.config), "best" if is_best else result.state,
            "" if result.accuracy is None else f"{result.accuracy:.2%}",
            "" if result.loss is None else f"{result.loss:.4f}",
            seconds(result.time_s),
            style="bold" if is_best else "red" if result.state is State.FAILED else None,
        )  # fmt: skip
    return table


def line(result: TrialResult) -> str:
    """Return ``result`` as one line."""
    if result.accuracy is None:
        came_to = f"failed: {result.reason}"
    else:
        came_to = f"accuracy {result.accuracy:7.2%}  loss {result.loss:.4f}"
    return f"trial {result.index:3d}  {result.config}  {came_to}  {seconds(result.time_s)}  group {result.group}"  # fmt: skip


def _cells(config: Config) -> list[str]:
    return [f"{getattr(config, name):.4g}" for name in DIMENSIONS]
