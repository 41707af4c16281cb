"""The sensitivity of a forecast, for people."""

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sim.forecast import Forecast
from sim.sensitivity import WORSE, Effect


def print_sensitivity(out: Console, row: Forecast, effects: Sequence[Effect]) -> None:
    """Print what each knob does to the step of ``row``, and which do nothing, and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{WORSE - 1:.0%} worse", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    for effect in effects:
        if not effect.is_inert:
            said = "does not fit" if effect.is_fatal else f"{effect.ratio - 1.0:+.2%}"
            table.add_row(effect.knob, said)
    out.print(f"\nsensitivity of {row.strategy} {row.mesh} on {row.nodes} nodes")
    out.print(table)
    by_reason: dict[str, list[str]] = defaultdict(list)
    for effect in effects:
        if effect.is_inert:
            by_reason[effect.why].append(effect.knob)
    if by_reason:
        out.print("do nothing here:")
    for why, names in by_reason.items():
        out.print(f"  {'; '.join(names)}: {why}")
