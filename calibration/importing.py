"""``python -m calibration import FILE...``: what others measured, checked, listed, and made a Machine of.

Only nccl-tests for now; another benchmark is another reader in :mod:`calibration.importers`.
"""

import json as json_format
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from calibration.importers.links import links_of
from calibration.importers.measured import Measured, Operation
from calibration.importers.nccl_tests import read_nccl_tests
from calibration.machine import Machine, write_machine
from exec.cli import console
from exec.errors import UsageError

Flag = Annotated[bool, Parameter(negative=())]


def import_measurements(
    *files: Path,
    operation: Operation | None = None,
    out: Path | None = None,
    name: str = "imported",
    json: Flag = False,
) -> None:
    """Read tables or JSON of nccl-tests, and make a Machine of their links.

    Parameters
    ----------
    files
        What all_reduce_perf and its sisters printed, or wrote with -J.
    operation
        What was measured, if a file does not say.
    out
        A Machine file to write, of links alone: use it after a machine that computes, as
        local+FILE.json.
    name
        The name the Machine has in forecasts.
    json
        Print one JSON line a measurement instead of a table.
    """
    if not files:
        raise UsageError("files must be named, got none: python -m calibration import FILE...")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UsageError(f"out must be a file in a folder that exists, got {out}")
    found = [each for file in files for each in read_nccl_tests(file, operation)]
    if out is not None:
        write_machine(_machine(name, files, found), out)
    if json:
        for each in found:
            print(json_format.dumps(asdict(each), allow_nan=False))
        return
    _print(found)
    if out is not None:
        console().print(f"links written to {out}")


def _machine(name: str, files: tuple[Path, ...], found: list[Measured]) -> Machine:
    source = f"nccl-tests, imported from {', '.join(file.name for file in files)}"
    return Machine(
        format="stepcast-machine-1",
        name=name,
        description=f"links of {', '.join(file.name for file in files)}; overlap was not measured",
        provenance={
            "command": shlex.join(["python", "-m", "calibration", *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        links=links_of(found, source),
    )


def _print(found: list[Measured]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("operation", "ranks", "nodes", "bytes", "us", "in place us", "busbw GB/s"):
        table.add_column(heading, justify="left" if heading == "operation" else "right", no_wrap=True)  # fmt: skip
    for each in found:
        table.add_row(
            each.operation, str(each.ranks), str(each.nodes), str(each.nbytes), f"{each.time_s * 1e6:.2f}",
            f"{each.in_place_time_s * 1e6:.2f}", f"{each.busbw_bytes_per_s * 1e-9:.2f}",
        )  # fmt: skip
    console(100).print(table)
