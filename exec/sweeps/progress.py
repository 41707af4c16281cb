"""How far a sweep is, on standard error: a bar on a terminal, elsewhere a line a cell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from exec.sweeps.cells import label
from exec.sweeps.run import Progress


@contextmanager
def reporting() -> Iterator[Callable[[Progress], None]]:
    """Return a function to call as each cell begins."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    if not err.is_terminal:
        yield lambda at: err.print(_words(at), markup=False)
        return
    columns = (BarColumn(20), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda at: bar.update(
            task, total=at.total, completed=at.number - 1, description=_words(at)
        )


def _words(at: Progress) -> str:
    left = "" if at.left_s is None else f"; {_time(at.left_s)} left"
    return f"cell {at.number}/{at.total}: {label(at.cell)}{left}"


def _time(seconds: float) -> str:
    """Return ``seconds`` for people.

    >>> _time(3.4), _time(61), _time(3725)
    ('3 s', '1 min 1 s', '1 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
