"""Profiles: a network of which only times and sizes are known, as a table or as one rate.

The table is CSV or TSV with a row for each layer, in order:

    layer, forward_s, backward_s, parameter_bytes, activation_bytes

all of one step of some batch on one device; what a layer passes on is its ``activation_bytes``. With
a column ``batch`` and rows for two batches each pass has a fixed time and one for each sample; with
one batch times grow with the samples. Layers without parameters join the one before them, because
stages and shards are cut at parameters. Other columns are ignored.
"""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exec.errors import UsageError
from exec.network.modules import Profiled
from exec.network.network import Network, Node

ITEMSIZE = 4
"""Numbers of a profile have this many bytes."""
_COLUMNS = ("layer", "forward_s", "backward_s", "parameter_bytes", "activation_bytes")
_PS = 1e12
_LONGEST_S = 1e6
_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


@dataclass(frozen=True, slots=True)
class _Row:
    layer: str
    forward_s: float
    backward_s: float
    parameter_bytes: float
    activation_bytes: float
    place: str


def read_profile(path: Path, batch: int | None = None) -> Network:
    """Return the chain of layers that the table in ``path`` profiles; ``batch`` if it does not say.

    Raises:
        UsageError: it cannot be read, or not all of it; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"profile {path} cannot be read: {error}") from error
    by_batch = _rows(text, f"profile {path}", batch)
    if len(by_batch) > 2:
        raise UsageError(f"profile {path} must have one batch or two, got {', '.join(map(str, sorted(by_batch)))}")  # fmt: skip
    batches = sorted(by_batch)
    names = [[row.layer for row in by_batch[each]] for each in batches]
    if names[0] != names[-1]:
        raise UsageError(f"profile {path} must have the same layers for both batches")
    layers = [
        _profiled(batches, rows) for rows in zip(*(by_batch[each] for each in batches), strict=True)
    ]
    return _chain(path.name, _merged(list(zip(names[0], layers, strict=True)), f"profile {path}"))


def rate_network(samples_per_s: float, num_parameters: int) -> Network:
    """Return the network of which nothing is known but a rate on one device and its parameters.

    It is one layer, so it can be cut neither into stages nor into shards. A step takes two thirds
    of its time for the backward pass, as products of matrices do.
    """
    if not 0 < samples_per_s < math.inf:
        raise UsageError(f"samples-per-s must be finite and greater than 0, got {samples_per_s}")
    each_ps = _PS / samples_per_s
    forward_ps = round(each_ps / 3.0)
    layer = Profiled(1, num_parameters, (0, forward_ps), (0, round(each_ps) - forward_ps))
    return _chain(f"{samples_per_s:g} samples/s", [("whole", layer)])


def parse_count(text: str) -> int:
    """Return the number of parameters that ``text`` spells.

    >>> parse_count("25.6M")
    25600000

    Raises:
        UsageError: it spells none, or none that is positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMGB]?)", text)
    if match is None or round(float(match[1]) * _PREFIXES[match[2]]) < 1:
        raise UsageError(f"parameters must be a number such as 25.6M, got {text}")
    return round(float(match[1]) * _PREFIXES[match[2]])


def _rows(text: str, where: str, batch: int | None) -> dict[int, list[_Row]]:
    lines = text.splitlines()
    if not lines:
        raise UsageError(f"{where} must have a header and layers, got nothing")
    rows = csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",", strict=True)
    found: dict[int, list[_Row]] = defaultdict(list)
    try:
        header = [cell.strip() for cell in next(rows)]
        if missing := [column for column in _COLUMNS if header.count(column) != 1]:
            raise UsageError(f"{where}, line 1 must have one column {missing[0]}, got {', '.join(header)}")  # fmt: skip
        if "batch" not in header and batch is None:
            raise UsageError(f"{where} must have a column batch, got {', '.join(header)}; or give --profile-batch")  # fmt: skip
        for cells in rows:
            place = f"{where}, line {rows.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UsageError(f"{place} must have {len(header)} columns, got {len(cells)}")
            row = {key: cell.strip() for key, cell in zip(header, cells, strict=True)}
            own = int(_number(row["batch"], "batch", place, 1e9)) if "batch" in row else batch
            if own is None or own < 1:
                raise UsageError(f"{place}: batch must be at least 1, got {own}")
            numbers = {
                column: _number(row[column], column, place, _LONGEST_S if column.endswith("_s") else 1e15)
                for column in _COLUMNS[1:]
            }  # fmt: skip
            found[own].append(_Row(layer=row["layer"], place=place, **numbers))
    except csv.Error as error:
        raise UsageError(f"{where}, line {rows.line_num}: {error}") from error
    if not found:
        raise UsageError(f"{where} must have layers, got none")
    return found


def _number(cell: str, column: str, place: str, most: float) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise UsageError(f"{place}: {column} must be a number of 0 to {most:g}, got {cell or 'nothing'}")  # fmt: skip
    return value


def _profiled(batches: Sequence[int], rows: Sequence[_Row]) -> Profiled:
    """Return one layer as it was profiled with each of ``batches``."""
    first, last = rows[0], rows[-1]
    if first.parameter_bytes != last.parameter_bytes:
        raise UsageError(f"{last.place}: parameter_bytes must be {first.parameter_bytes:.0f} as with the other batch, got {last.parameter_bytes:.0f}")  # fmt: skip

    def passes(low_s: float, high_s: float) -> tuple[int, int]:
        if len(batches) == 1:
            return 0, round(low_s / batches[0] * _PS)
        each_s = max(0.0, (high_s - low_s) / (batches[1] - batches[0]))
        each_s = min(each_s, low_s / batches[0])
        return round((low_s - each_s * batches[0]) * _PS), round(each_s * _PS)

    return Profiled(
        units=max(1, math.ceil(last.activation_bytes / batches[-1] / ITEMSIZE)),
        num_parameters=math.ceil(first.parameter_bytes / ITEMSIZE),
        forward_ps=passes(first.forward_s, last.forward_s),
        backward_ps=passes(first.backward_s, last.backward_s),
    )


def _merged(layers: Sequence[tuple[str, Profiled]], where: str) -> list[tuple[str, Profiled]]:
    """Return ``layers`` with those without parameters joined to the one before, or else the next."""
    found: list[tuple[str, Profiled]] = []
    for name, layer in layers:
        if found and not (layer.num_parameters and found[-1][1].num_parameters):
            before = found[-1][0] if found[-1][1].num_parameters else name
            found[-1] = (before, _joined(found[-1][1], layer))
        else:
            found.append((name, layer))
    if not found[-1][1].num_parameters:
        raise UsageError(f"{where} must have a layer with parameters, got none")
    if not any(sum(each.forward_ps) + sum(each.backward_ps) for _, each in found):
        raise UsageError(f"{where} must have a layer that takes time, got none")
    return found


def _joined(one: Profiled, other: Profiled) -> Profiled:
    """Return two layers as one, which passes on what the second does."""

    def sums(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return a[0] + b[0], a[1] + b[1]

    return Profiled(
        other.units, one.num_parameters + other.num_parameters,
        sums(one.forward_ps, other.forward_ps), sums(one.backward_ps, other.backward_ps),
    )  # fmt: skip


def _chain(name: str, layers: Sequence[tuple[str, Profiled]]) -> Network:
    # What comes in is not profiled; the first layer's own rank has it.
    nodes = (
        Node(label, layer, (index - 1,), (layer.units, 1, 1))
        for index, (label, layer) in enumerate(layers)
    )
    return Network(name, (1, 1, 1), tuple(nodes))
