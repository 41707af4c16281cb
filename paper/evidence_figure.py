"""The central figure: every forecast over what was measured, drawn from the committed files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from paper.figures import STYLE, save
from sim.evidence import Evidence
from sim.evidence_plot import evidence_panels


def evidence_figure(path: Path, evidence: Sequence[Evidence]) -> None:
    """Draw our runs against their times, and what others measured against the ranks fitted."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        evidence_panels(figure, evidence)
        save(figure, path)
