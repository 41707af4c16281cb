"""Evidence as a picture: forecast over measured, against what was measured and how far it was from the fit.

A point within its interval is filled, one outside is hollow; the band is what is within a tenth.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sim.evidence import COVERAGE, Evidence, Judged
from sim.plot import PALETTE, new_figure

_MARKERS = "os^Dv"
_CROWDED = 100  # so many points hide their bars


def draw_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Draw every case into ``path``; its suffix chooses the format.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    with new_figure(path, (10, 4.6)) as figure:
        evidence_panels(figure, evidence)
        figure.suptitle(f"Forecasts of what was not fitted (hollow: outside the {COVERAGE:.0%} interval)", fontsize=10)  # fmt: skip


def evidence_panels(figure: Any, evidence: Sequence[Evidence]) -> None:
    """Draw times against the measured time, and beside them shares of times against the ranks fitted."""
    parts = [
        ([each for each in evidence if each.is_relative is is_relative], panel)
        for is_relative, panel in ((False, _by_time), (True, _by_extrapolation))
    ]
    parts = [(own, panel) for own, panel in parts if own]
    panels = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for axes, (own, panel) in zip(panels, parts, strict=True):
        axes.axhspan(0.9, 1.1, color="#000000", alpha=0.07, lw=0)
        axes.axhline(1.0, color="#555555", lw=0.8)
        panel(axes, own)
        axes.grid(visible=True, alpha=0.25)
        axes.legend(frameon=False, fontsize=6.5, loc="lower left")
    axes = panels[0]
    axes.set_yscale("log")
    axes.set_ylabel("forecast over measured")
    axes.set_yticks([0.2, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5, 2.0], minor=False)
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    ratios = [case.forecast_s / case.measured_s for each in evidence for case in each.cases]
    axes.set_ylim(0.5 * min(*ratios, 0.8), 1.15 * max(*ratios, 1.2))


def _by_time(axes: Any, evidence: Sequence[Evidence]) -> None:
    bars = sum(len(each.cases) for each in evidence) <= _CROWDED
    for each, style in _styled(evidence):
        at = [case.measured_s for case in each.cases]
        if bars and not each.is_apart:
            low = [case.low_s / case.measured_s for case in each.cases]
            high = [case.high_s / case.measured_s for case in each.cases]
            axes.vlines(at, low, high, color=style["color"], alpha=0.2, lw=2)
        _points(axes, at, each, style)
    axes.set_xscale("log")
    axes.set_xlabel("measured, s")


def _by_extrapolation(axes: Any, evidence: Sequence[Evidence]) -> None:
    """Draw the sources of each extrapolation side by side, and the cases of each in their order."""
    steps = sorted({case.extrapolation for each in evidence for case in each.cases})
    styled = list(_styled(evidence))
    edges = []
    place = 0.0
    for step in steps:
        begin = place
        for each, style in styled:
            own = [case for case in each.cases if case.extrapolation == step]
            if not own:
                continue
            width = 0.4 + 0.02 * len(own)
            at = [place + width * (i + 0.5) / len(own) for i in range(len(own))]
            _points(axes, at, Evidence(each.source, "", tuple(own)), style)
            place += width + 0.1
        edges.append((begin, place))
        axes.axvline(place + 0.1, color="#999999", lw=0.6)
        place += 0.3
    handles, labels = axes.get_legend_handles_labels()
    axes.set_xticks(
        [(begin + end) / 2 for begin, end in edges],
        ["other sizes" if step == 1 else f"{step:g} x" for step in steps],
    )
    axes.set_xlabel("ranks, in those fitted (each source apart)")
    axes.legend(handles, labels)


def _points(axes: Any, at: Sequence[float], each: Evidence, style: dict[str, Any]) -> None:
    """Draw what is inside its interval filled, and what is outside hollow."""
    pairs = list(zip(at, each.cases, strict=True))
    for is_inside in (True, False):
        own = [(x, _ratio(case)) for x, case in pairs if case.is_inside is is_inside]
        if own:
            face = style["color"] if is_inside else "none"
            known = axes.get_legend_handles_labels()[1]
            label = style["label"] if style["label"] not in known else None
            axes.plot(*zip(*own, strict=True), style["marker"], color=style["color"], mfc=face, ms=3.2, mew=0.8, ls="none", label=label)  # fmt: skip


def _ratio(case: Judged) -> float:
    return case.forecast_s / case.measured_s


def _styled(evidence: Iterable[Evidence]) -> Iterable[tuple[Evidence, dict[str, Any]]]:
    """Yield each source with a colour of its own; parts of one, named before a colon, share it."""
    names: list[str] = []
    for each in evidence:
        name = each.source.split(":")[0].removesuffix(" (oversubscribed)")
        if name not in names:
            names.append(name)
        i = names.index(name)
        marker = "x" if each.is_apart else _MARKERS[i // len(PALETTE) % len(_MARKERS)]
        short = name.removesuffix(".jsonl").removesuffix(".json")
        label = f"{short} (oversubscribed)" if each.is_apart else short
        yield each, {"color": PALETTE[i % len(PALETTE)], "marker": marker, "label": label}
