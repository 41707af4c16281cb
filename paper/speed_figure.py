"""Growth with ranks: CPU seconds of the simulator's engines, of others, and of the floor."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper.figures import STYLE, save
from paper.results import Record
from sim.plot import PALETTE

_RINGS = {
    "solve": ("ours: solve", PALETTE[0], "s-"),
    "arrays": ("ours: arrays", PALETTE[0], "o-"),
    "events": ("ours: events", PALETTE[0], "^-"),
    "SimPy by hand": ("SimPy by hand", PALETTE[1], "v-"),
    "SimGrid (Python)": ("SimGrid, Python", PALETTE[2], "D-"),
    "floor: NumPy": ("floor: bare NumPy", "#555555", "--"),
}
_PEERS = {
    "ASTRA-sim, analytical": (PALETTE[3], "o:"),
    "LogGOPSim": (PALETTE[4], "s:"),
    "SimGrid SMPI": (PALETTE[2], "D:"),
    "SimPy, the usual way": (PALETTE[1], "v:"),
}
_WORLDS = {
    "ResNet-18, data, ring": ("ResNet-18, data", PALETTE[0], "o-"),
    "hybrid, library": ("hybrid, p = s x s x s", PALETTE[3], "D-"),
    "pipelines of 8": ("pipelines of 8, folded, events", PALETTE[1], "^-"),
    "ResNet-18, data, ring, 200 draws": ("ResNet-18, 200 draws", PALETTE[2], "*"),
}
_GOALS = (("ResNet-18, data, ring", 1024, 0.1), ("ResNet-18, data, ring", 4096, 0.5), ("hybrid, library", 4096, 2.0), ("ResNet-18, data, ring, 200 draws", 1024, 5.0))  # fmt: skip


def growth_figure(path: Path, rows: Sequence[Record], peers: Sequence[Record]) -> None:
    """Draw one ring all-reduce by all who can, and whole steps by our engines with their goals."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        ring, worlds = figure.subplots(1, 2, sharey=True)
        _ring_panel(ring, rows, peers)
        _worlds_panel(worlds, rows)
        ring.set_ylabel("CPU seconds")
        for axes, columns in ((ring, 2), (worlds, 1)):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("ranks")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.grid(visible=True, alpha=0.25)
            axes.legend(frameon=False, fontsize=6.5, loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=columns)  # fmt: skip
        save(figure, path)


def _ring_panel(axes: Axes, rows: Sequence[Record], peers: Sequence[Record]) -> None:
    for name, (label, colour, style) in _RINGS.items():
        own = [row for row in rows if row["kind"] == "ring" and row["what"] == name]
        _line(axes, own, label, colour, style)
    for each in peers:
        if each["what"] in _PEERS:
            colour, style = _PEERS[each["what"]]
            ranks = [int(count) for count in each["cpu_s"]]
            axes.plot(ranks, list(each["cpu_s"].values()), style, color=colour, mfc="white", ms=4, lw=0.8, label=f"{each['what']} (earlier)")  # fmt: skip
    axes.set_title("one ring all-reduce of 40 MB, message by message", fontsize=8)


def _worlds_panel(axes: Axes, rows: Sequence[Record]) -> None:
    for name, (label, colour, style) in _WORLDS.items():
        own = [row for row in rows if row["kind"] == "large_world" and row["case"] == name]
        _line(axes, own, label, colour, style)
    for name, ranks, bound_s in _GOALS:
        axes.plot([ranks], [bound_s], "_", color=_WORLDS[name][1], ms=14, mew=1.6)
    axes.plot([], [], "_", color="#555555", ms=10, mew=1.6, label="must be below this")
    axes.set_title("one training step", fontsize=8)


def _line(axes: Axes, own: Sequence[Record], label: str, colour: str, style: str) -> None:
    if not own:
        return
    ranks = [row["ranks"] for row in own]
    middle = [row["seconds"]["median"] for row in own]
    low, high = ([row["seconds"][end] for row in own] for end in ("low", "high"))
    axes.plot(ranks, middle, style, color=colour, ms=4 if style != "*" else 7, lw=1.2, label=label)
    axes.vlines(ranks, low, high, color=colour, lw=1)
