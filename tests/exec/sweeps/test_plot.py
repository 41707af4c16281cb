"""The figures: which there are, what stands in them, and where they go."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from exec.errors import UsageError
from exec.sweeps.figures import draw_speedup, look_of
from exec.sweeps.plot import check_plot, draw_sweep, pictures_of, varying
from exec.sweeps.results import results_of
from tests.exec.sweeps.made_up import journal, line

RANKS = [line(8.0 / ranks, ranks=ranks, over=ranks > 2) for ranks in (1, 2, 4)]
BATCHES = [line(8.0 / batch, batch=batch) for batch in (64, 16)]
MANY = [
    line(8.0 / batch + seed / 9, 0.5, ranks=ranks, batch=batch, learning_rate=rate, strategy=name,
         momentum=momentum, over=ranks > 2, seed=seed)
    for seed in (0, 1) for ranks in (1, 2, 4) for batch in (16, 256) for rate in (0.1, 0.5)
    for name in ("data", "server") for momentum in (0.0, 0.9)
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (RANKS, ["speedup", "accuracy"]),
        (BATCHES, ["batch", "accuracy"]),
        ([line(1.0, strategy=name) for name in "ab"], ["accuracy"]),
        ([line(1.0, overlap=each) for each in (True, False)], ["accuracy"]),
        (MANY, ["batch", "momentum", "speedup", "accuracy"]),
        ([line(1.0), line(2.0, seed=1)], []),
    ],
    ids=["ranks", "batch", "strategy", "flag", "many", "one cell"],
)
def test_figures_are_those_of_the_axes_that_vary(lines: list, names: list[str]) -> None:
    assert [picture.name for picture in pictures_of(results_of(lines), "ranks")] == names


def test_numbers_stand_in_their_order_and_names_in_that_of_the_file() -> None:
    results = results_of([line(1.0, batch=b, strategy=s) for b in (64, 9) for s in "ba"])
    assert varying(results) == {"batch": [9, 64], "strategy": ["b", "a"]}


def speedup_axes(lines: list, share: str) -> list[Axes]:
    """Draw the speedup of ``lines``."""
    results, frame = results_of(lines), Figure()
    draw_speedup(frame, results, look_of(varying(results), "ranks", share))
    return frame.axes


def test_speedup_has_the_ideal_line_and_hollow_points_where_cores_were_shared() -> None:
    (axes,) = speedup_axes(RANKS, "threads")
    ideal, own = axes.lines[:2]
    assert list(zip(*ideal.get_data(), strict=True)) == [(1, 1.0), (4, 4.0)]
    assert [list(each) for each in own.get_data()] == [[1, 2, 4], [1.0, 2.0, 4.0]]
    (points,) = (each for each in axes.collections if len(each.get_facecolor()) == 3)
    faces = [to_hex(each) for each in points.get_facecolor()]
    assert faces == ["#0072b2", "#0072b2", "#ffffff"]
    assert axes.get_xlabel() == "threads"
    assert axes.get_ylabel() == "speedup over 1 thread"


def test_axes_beyond_two_have_panels_of_their_own() -> None:
    titles = [axes.get_title() for axes in speedup_axes(MANY, "ranks")]
    assert titles == ["batch 16, momentum 0.0", "batch 16, momentum 0.9",
                      "batch 256, momentum 0.0", "batch 256, momentum 0.9"]  # fmt: skip


def test_folder_gets_a_file_for_each_figure_and_a_file_all(tmp_path: Path) -> None:
    both = journal(*(line(8.0 / r, ranks=r, batch=b) for r in (1, 2) for b in (16, 32)))
    drawn = draw_sweep(tmp_path / "figures", both)
    assert [path.name for path in drawn] == ["batch.png", "speedup.png", "accuracy.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    (one,) = draw_sweep(tmp_path / "all.svg", both)
    assert one.read_text(encoding="utf-8").startswith("<?xml")


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    for lines in ([line(1.0)], [line(None, ranks=1), line(None, ranks=2)], [line(1.0, ranks=1), line(None, ranks=2)]):  # fmt: skip
        with pytest.raises(UsageError, match="plot needs an axis of which two values were run"):
            draw_sweep(tmp_path / "figures", journal(*lines))


def test_place_that_cannot_be_drawn_to_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "figures", tmp_path / "file"):
        with pytest.raises(UsageError, match="plot must be a folder, or a file in a folder that"):
            check_plot(path)
    with pytest.raises(UsageError, match=r"plot must end in one of .*png.*, got .*x\.txt"):
        check_plot(tmp_path / "x.txt")
    for path in (tmp_path, tmp_path / "figures", tmp_path / "x.png", tmp_path / "x.SVG"):
        check_plot(path)
