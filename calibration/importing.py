"""``python -m calibration import`` and ``fit``: what others measured, checked, listed, made a Machine of."""

import json as json_format
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from calibration.collective_fit import fit_collectives
from calibration.find import find_machine
from calibration.importers.cells import text_of
from calibration.importers.detect import read_measurements
from calibration.importers.links import links_of
from calibration.importers.measured import Layout, Measured, Operation, joined
from calibration.importers.table import read_table
from calibration.machine import Link, Machine, Tier, write_machine
from calibration.showing import algorithm_lines
from calibration.stated import parse_links
from exec.cli import console
from exec.errors import UsageError

Flag = Annotated[bool, Parameter(negative=())]


def import_measurements(
    *files: Path,
    operation: Operation | None = None,
    ranks: int | None = None,
    nodes: int | None = None,
    ranks_per_node: int | None = None,
    tier: Tier | None = None,
    link: tuple[str, ...] = (),
    beside: str | None = None,
    out: Path | None = None,
    name: str = "imported",
    json: Flag = False,
) -> None:
    """Read logs of OSU micro-benchmarks, Intel MPI Benchmarks or nccl-tests, and make a Machine of them.

    Parameters
    ----------
    files
        What the benchmarks printed, or nccl-tests wrote with -J; each file is told by its titles.
    operation
        What was measured, if a table of nccl-tests does not say.
    ranks
        On how many ranks, if a file does not say (OSU's collectives).
    nodes
        On how many nodes, if a file does not say (OSU, IMB).
    ranks_per_node
        The same, as ranks on each node.
    tier
        The same, as where the ranks met: node (one node) or network (one rank on each node).
    link
        A link that was not measured, as network=6.8GB/s,2us; may be repeated.
    beside
        A Machine to put the links into; what it has itself stays.
    out
        The Machine file to write; of links alone unless beside is given: use it after a machine
        that computes, as local+FILE.json.
    name
        The name the Machine has in forecasts.
    json
        Print one JSON line a measurement instead of a table.
    """
    if not files:
        raise UsageError("files must be named, got none: python -m calibration import FILE...")
    _check_out(out)
    layout = layout_of(ranks, nodes, ranks_per_node, tier)
    stated = parse_links(link)
    base = find_machine(beside) if beside is not None else None
    readings = [read_measurements(file, layout, operation) for file in files]
    found = joined(readings).measured
    summaries = [f"{file}: {reading.summary()}" for file, reading in zip(files, readings, strict=True)]  # fmt: skip
    _finish(files, found, summaries, stated, base, out, name, is_json=json)


def fit_tables(
    *tables: Path,
    operation: Operation | None = None,
    ranks: int | None = None,
    nodes: int | None = None,
    ranks_per_node: int | None = None,
    tier: Tier | None = None,
    where: tuple[str, ...] = (),
    link: tuple[str, ...] = (),
    beside: str | None = None,
    out: Path | None = None,
    name: str = "fitted",
    json: Flag = False,
) -> None:
    """Fit a plain table of measurements: CSV or TSV with columns op, ranks, nodes, bytes, time_s.

    Parameters
    ----------
    tables
        The tables; other columns are ignored, by name.
    operation
        The operation of all rows, if there is no column op.
    ranks
        The ranks of all rows, if there is no column ranks.
    nodes
        The nodes of all rows, if there is no column nodes.
    ranks_per_node
        The same, as ranks on each node.
    tier
        The same, as where the ranks met: node (one node) or network (one rank on each node).
    where
        Only the rows with this value, as system=NV_P100; may be repeated.
    link
        A link that was not measured, as network=6.8GB/s,2us; may be repeated.
    beside
        A Machine to put the links into; what it has itself stays.
    out
        The Machine file to write.
    name
        The name the Machine has in forecasts.
    json
        Print one JSON line a measurement instead of a table.
    """
    if not tables:
        raise UsageError("tables must be named, got none: python -m calibration fit TABLE...")
    _check_out(out)
    layout = layout_of(ranks, nodes, ranks_per_node, tier)
    stated = parse_links(link)
    base = find_machine(beside) if beside is not None else None
    chosen = [where_of(each) for each in where]
    found: list[Measured] = []
    summaries: list[str] = []
    for table in tables:
        reading = read_table(text_of(table), str(table), layout, operation, chosen)
        found += reading.measured
        ignored = f"; ignored columns {', '.join(reading.ignored)}" if reading.ignored else ""
        left = f"; left out {reading.left_out} rows" if reading.left_out else ""
        summaries.append(f"{table}: read {len(reading.measured)} rows{left}{ignored}")
    _finish(tables, found, summaries, stated, base, out, name, is_json=json)


def _finish(
    files: Sequence[Path], found: Sequence[Measured], summaries: Sequence[str],
    stated: dict[Tier, Link], base: Machine | None, out: Path | None, name: str, *, is_json: bool,
) -> None:  # fmt: skip
    machine = made_of(found, ", ".join(file.name for file in files), name, stated)
    if base is not None:
        machine = base.combined_with(machine).model_copy(update={"name": name})
    if out is not None:
        write_machine(machine, out)
    if is_json:
        for each in found:
            print(json_format.dumps(asdict(each), allow_nan=False))
        return
    _print(found)
    for line in (*summaries, *algorithm_lines(machine)):
        console(170).print(line)
    if out is not None:
        console().print(f"{', '.join(f'{tier} link' for tier in machine.links) or 'no link'} written to {out}")  # fmt: skip


def made_of(
    found: Sequence[Measured], files: str, name: str, stated: dict[Tier, Link] | None = None
) -> Machine:
    """Return the Machine of links and collectives that ``found`` makes; ``stated`` fill what it lacks."""
    source = f"imported from {files}"
    return Machine(
        format="stepcast-machine-1",
        name=name,
        description=f"links of {files}; overlap was not measured",
        provenance={
            "command": shlex.join(["python", "-m", "calibration", *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        links={**(stated or {}), **links_of(found, source)},
        collectives=fit_collectives(found, source),
    )


def layout_of(
    ranks: int | None, nodes: int | None, ranks_per_node: int | None, tier: Tier | None
) -> Layout:
    """Return on how many ranks and nodes the options say that a benchmark ran.

    Raises:
        UsageError: two of them say on how many nodes.
    """
    given = [option for option, value in (("nodes", nodes), ("ranks-per-node", ranks_per_node), ("tier", tier)) if value is not None]  # fmt: skip
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} must not be given together; each says on how many nodes")  # fmt: skip
    match tier:
        case Tier.NODE:
            return Layout(ranks, 1)
        case Tier.NETWORK:
            return Layout(ranks, None, 1)
        case None:
            return Layout(ranks, nodes, ranks_per_node)


def where_of(spelled: str) -> tuple[str, str]:
    """Return the column and the value that ``COLUMN=VALUE`` names.

    Raises:
        UsageError: it is not spelled so.
    """
    column, equals, value = spelled.partition("=")
    if not equals or not column:
        raise UsageError(f"where must be COLUMN=VALUE, got {spelled}")
    return column, value


def _check_out(out: Path | None) -> None:
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UsageError(f"out must be a file in a folder that exists, got {out}")


def _print(found: Sequence[Measured]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    has_bus = any(each.busbw_bytes_per_s is not None for each in found)
    headings = ["operation", "ranks", "nodes", "bytes", "us"]
    for heading in headings + ["in place us", "busbw GB/s"] * has_bus:
        table.add_column(heading, justify="left" if heading == "operation" else "right", no_wrap=True)  # fmt: skip
    for each in found:
        cells = [each.operation, str(each.ranks), str(each.nodes), str(each.nbytes), f"{each.time_s * 1e6:.2f}"]  # fmt: skip
        if has_bus:
            in_place, busbw = each.in_place_time_s, each.busbw_bytes_per_s
            cells += [
                "" if in_place is None else f"{in_place * 1e6:.2f}",
                "" if busbw is None else f"{busbw * 1e-9:.2f}",
            ]
        table.add_row(*cells)
    console(100).print(table)
