"""``python -m calibration show MACHINE``: what a Machine holds, printed and drawn."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from calibration.collective_model import CollectiveModel
from calibration.find import find_machine
from calibration.importers.measured import Operation
from calibration.machine import Curve, Machine
from calibration.spelled import spelled, spelled_nodes
from exec.cli import console
from exec.errors import UsageError

_LAST = 1 << 50


def show_machine(machine: str, *, plot: Path | None = None) -> None:
    """Print what a Machine holds: points, fits, bands, ranges and sources, for each tier and operation.

    Parameters
    ----------
    machine
        A shipped Machine, local (this machine's profile) or a file; a+b takes from b what a lacks.
    plot
        Draw its links and collectives into this SVG, PNG or PDF file.
    """
    if plot is not None and (plot.is_dir() or not plot.absolute().parent.is_dir()):
        raise UsageError(f"plot must be a file in a folder that exists, got {plot}")
    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise UsageError(f"plot must end in .svg, .png or .pdf, got {plot}")
    found = find_machine(machine)
    curves = machine_curves(found)
    if plot is not None:
        if not curves and not found.collectives:
            raise UsageError(f"plot needs links or collectives, of which machine {found.name} has none")  # fmt: skip
        from calibration.show_plot import draw_machine  # noqa: PLC0415  # matplotlib, only when asked for

        draw_machine(plot, found, curves)
    out = console(170)
    out.print(f"{found.name}: {found.description}")
    if found.compute is not None:
        _print_kernels(found)
    if curves:
        _print_curves(curves)
    for line in (*_series_lines(found), *algorithm_lines(found)):
        out.print(line)
    if fabric := spelled(found):
        out.print(f"fabric: {fabric}")
    for line in spelled_nodes(found):
        out.print(line)
    if found.storage is not None:
        low, high = found.storage.nbytes.low, found.storage.nbytes.high
        out.print(f"storage: {found.storage.fixed_s * 1e3:.3g} ms and {found.storage.s_per_byte * 1e9:.3g} ns a byte, "
                  f"{_bytes(low)} to {_bytes(high)}, +-{found.storage.rel_sigma:.0%}; {found.storage.source}")  # fmt: skip


def machine_curves(machine: Machine) -> dict[str, Curve]:
    """Return the curves of links and copies, by what they are of."""
    found: dict[str, Curve] = {}
    for tier, link in machine.links.items():
        found[f"{tier} message"] = link.message
        found[f"{tier} all_reduce of 2"] = link.allreduce
    return found | {f"copy {direction}": curve for direction, curve in machine.copies.items()}


def algorithm_lines(machine: Machine) -> Iterator[str]:
    """Yield which algorithm was recognised where, and how sure that is."""
    untold: list[str] = []
    for operation, model in machine.collectives.items():
        for tier, own in model.tiers.items():
            ranks = f"{own.ranks.low:.0f} to {own.ranks.high:.0f} ranks"
            if own.ranks.low == own.ranks.high:
                untold.append(f"{operation} ({tier}, {own.ranks.high:.0f})")
                continue
            parts = []
            for size_range in own.ranges:
                best = size_range.fitted[0]
                share = best.weight / sum(each.weight for each in size_range.fitted)
                until = f"to {_bytes(size_range.up_to_nbytes)}" if size_range.up_to_nbytes < _LAST else "beyond"  # fmt: skip
                parts.append(f"{best.form} {until} ({share:.0%})")
            yield f"{operation} ({tier}): {', '.join(parts)}; {ranks}, +-{own.sigma_per_doubling:.0%} a doubling beyond"
        if model.is_pipelined is not None:
            yield f"{operation}: the tiers work {'at once' if model.is_pipelined else 'one after the other'}"
    if untold:
        yield f"one number of ranks tells no algorithm from another: {', '.join(untold)}"


def _print_kernels(machine: Machine) -> None:
    compute = machine.compute
    assert compute is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("kernel", "fixed us", "samples", "+-", "n", "k", "m"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right", no_wrap=True)
    for kernel, model in compute.kernels.items():
        spans = (f"{span.low:.0f} to {span.high:.0f}" for span in (model.n, model.k, model.m))
        table.add_row(kernel, f"{model.coefficients_s.get('fixed', 0.0) * 1e6:.2f}", str(model.num_samples), f"{model.rel_sigma:.0%}", *spans)  # fmt: skip
    console(170).print(f"compute: {compute.device}, {compute.cores_per_node} a node; {compute.source}")  # fmt: skip
    console(170).print(table)


def _print_curves(curves: dict[str, Curve]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("curve", "up to", "alpha us", "GB/s", "+-", "measured", "source"):
        table.add_column(heading, justify="left" if heading in ("curve", "source") else "right", no_wrap=heading != "source")  # fmt: skip
    for name, curve in curves.items():
        for i, segment in enumerate(curve.segments):
            until = _bytes(segment.up_to_nbytes) if i < len(curve.segments) - 1 else ""
            beta = segment.beta_s_per_byte
            measured = f"{_bytes(curve.nbytes.low)} to {_bytes(curve.nbytes.high)}"
            table.add_row(
                name if not i else "", until, f"{segment.alpha_s * 1e6:.2f}", f"{1e-9 / beta:.3g}" if beta else "",
                *((f"{curve.rel_sigma:.0%}", measured, curve.source) if not i else ("", "", "")),
            )  # fmt: skip
    console(170).print(table)


def _series_lines(machine: Machine) -> Iterator[str]:
    for operation, model in machine.collectives.items():
        yield f"{operation}: {_points(operation, model)}; {model.source}"


def _points(operation: Operation, model: CollectiveModel) -> str:
    parts = []
    for series in model.series:
        band = sorted(series.missed)[len(series.missed) // 2]
        sizes = f"{_bytes(series.nbytes[0])} to {_bytes(series.nbytes[-1])}"
        if operation is Operation.BARRIER:
            sizes = f"{series.times_s[0] * 1e6:.2f} us"
        parts.append(f"{series.ranks} ranks on {series.nodes} node{'s' * (series.nodes > 1)}: {len(series.nbytes)} points, {sizes}, +-{band:.0%} between")  # fmt: skip
    return "; ".join(parts)


def _bytes(nbytes: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= size:
            return f"{nbytes / size:.4g} {unit}"
    return f"{nbytes:.0f} B"
