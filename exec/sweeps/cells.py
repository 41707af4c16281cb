"""Cells: every combination of the axes' values, once for each seed.

A cell is one training. It is a plain dictionary, as it stands in the file; the seed tells a cell's
repeats apart. Repeats differ in their seed because that serves both ends: a time does not depend
on the seed, so times spread by the machine's noise alone, and accuracies spread as seeds make them.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exec.errors import UsageError

Scalar = bool | int | float | str
Cell = dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Axis:
    """What varies: the option's ``name`` as a field, and ``option`` as the trainer spells it.

    ``values`` are in one spelling, ``texts`` are what the user wrote and the trainer gets.
    """

    name: str
    option: str
    values: tuple[Scalar, ...]
    texts: tuple[str, ...]


def parse_list(name: str, text: str) -> list[str]:
    """Return the values in ``text``, joined by commas; one with a comma stands in double quotes.

    >>> parse_list("ranks", "1, 2,4")
    ['1', '2', '4']
    """
    try:
        values = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error:
        values = []
    values = [value.strip() for value in values]
    if not values or "" in values:
        raise UsageError(f"{name} must be values joined by commas, got {text!r}")
    return values


def parse_vary(text: str) -> tuple[str, list[str]]:
    """Return the name and the values of ``NAME=V1,V2``.

    >>> parse_vary("slow=1=1.0,1=2.0")
    ('slow', ['1=1.0', '1=2.0'])
    """
    name, equals, values = text.partition("=")
    if not name.strip() or not equals:
        raise UsageError(f"vary must be NAME=V1,V2, got {text!r}")
    return name.strip(), parse_list(name.strip(), values)


def cells(axes: Sequence[Axis], seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield every cell once: all with the first seed, then all with the next.

    So a machine that slows down does so for all alike. Within a seed the ranks vary fastest, so
    that a speedup's two times are measured close together.
    """
    ordered = sorted(axes, key=lambda axis: axis.name == "ranks")
    for seed in seeds:
        for values in itertools.product(*(axis.values for axis in ordered)):
            found = dict(zip((axis.name for axis in ordered), values, strict=True))
            yield {axis.name: found[axis.name] for axis in axes} | {"seed": seed}


def key_of(cell: Cell) -> str:
    """Return the text that two cells share exactly if they are the same.

    >>> key_of({"seed": 0, "batch": 32}) == key_of({"batch": 32, "seed": 0})
    True
    """
    return json.dumps(cell, sort_keys=True, allow_nan=False)


def arguments(cell: Cell, axes: Sequence[Axis]) -> list[str]:
    """Return the trainer's options for ``cell``, all but the ranks, which the transport needs."""
    texts = (
        f"{axis.option}={axis.texts[axis.values.index(cell[axis.name])]}"
        for axis in axes
        if axis.name != "ranks"
    )
    return [*texts, f"--seed={cell['seed']}"]


def label(cell: Cell) -> str:
    """Return ``cell`` for people.

    >>> label({"ranks": 2, "batch": 32, "seed": 0})
    'ranks 2, batch 32, seed 0'
    """
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in cell.items())
