"""Evidence from tables and logs of others: fitted on a part, which is stated, and the rest forecast.

Logs of OSU, IMB and nccl-tests and plain tables of collectives are fitted by
:mod:`calibration.collective_fit`; tables of rates are forecast from those of one device.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calibration.holdout import HeldOut, Split, at_most_ranks, every_other_size, hold_out
from calibration.importers.cells import refuse, text_of
from calibration.importers.detect import read_measurements
from calibration.importers.measured import Layout, Measured, Operation
from calibration.importers.table import read_table
from calibration.machine import Link, Machine, Tier
from exec.errors import MachineError, UsageError
from sim.evidence import Evidence, Judged
from sim.rates import Rate, hold_out_rates

EVERY_OTHER_SIZE = "every-other-size"
SMALL_RANKS = 8
"""Fitted on at most so many ranks where a file has more and nobody says otherwise."""
_COLUMNS = ("bytes", "nbytes", "size", "time_s", "time_ms", "time_us")
"""One of which tells a table from a log, whatever its file is called."""
_RATES = ("images_per_s", "samples_per_s")
_RANKS = ("gpus", "ranks", "devices")
_BATCHES = ("batch_per_gpu", "batch_per_rank", "batch")


@dataclass(frozen=True, slots=True)
class Stated:
    """What the user says of files that do not say it themselves.

    ``by`` is a column of which each value is a source of its own; ``parameters`` are those of models.
    """

    fit: str | None = None
    layout: Layout = field(default_factory=Layout)
    operation: Operation | None = None
    where: tuple[tuple[str, str], ...] = ()
    by: str | None = None
    links: Mapping[Tier, Link] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)


def parse_fit(spelled: str) -> tuple[Split, str]:
    """Return the split that ``spelled`` says, and what it fits, in words.

    Raises:
        UsageError: it is neither ranks<=N nor every-other-size.
    """
    if spelled == EVERY_OTHER_SIZE:
        return every_other_size, "fitted on every other size"
    found = re.fullmatch(r"ranks\s*<=\s*(\d+)", spelled.strip())
    if found is None or int(found[1]) < 2:
        raise UsageError(f"fit must be ranks<=N with N of at least 2, or {EVERY_OTHER_SIZE}, got {spelled}")  # fmt: skip
    return at_most_ranks(int(found[1])), f"fitted on at most {found[1]} ranks"


def table_evidence(path: Path, stated: Stated = Stated()) -> list[Evidence]:
    """Return the evidence in a table or a log.

    Raises:
        MachineError: it cannot be read, or there is nothing to fit or nothing to forecast.
    """
    text = text_of(path)
    header = text.split("\n", 1)[0]
    columns = [each.strip() for each in header.split("\t" if "\t" in header else ",")]
    if any(each in columns for each in _RATES):
        return [_rates(path, text, columns, stated)]
    if path.suffix not in (".csv", ".tsv") and not any(each in columns for each in _COLUMNS):
        return [_collectives(path.name, read_measurements(path, stated.layout, stated.operation).measured, stated)]  # fmt: skip
    if stated.by is None:
        found = read_table(text, str(path), stated.layout, stated.operation, stated.where)
        return [_collectives(path.name, found.measured, stated)]
    if stated.by not in columns:
        raise MachineError(f"{path}, line 1: the table must have a column {stated.by}, got {', '.join(columns)}")  # fmt: skip
    values = dict.fromkeys(row[stated.by] for _, row in _rows(path, text, columns))
    return [
        _collectives(f"{path.name}, {value}", read_table(text, str(path), stated.layout, stated.operation, (*stated.where, (stated.by, value))).measured, stated)
        for value in values
    ]  # fmt: skip


def _rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row below the header, and its cells by column."""
    delimiter = "\t" if "\t" in text.split("\n", 1)[0] else ","
    rows = csv.reader(text.splitlines(), delimiter=delimiter)
    for row in rows:
        place = f"{path}, line {rows.line_num}"
        if rows.line_num == 1 or not row:
            continue
        if len(row) != len(columns):
            refuse(place, f"the row must have {len(columns)} cells, got {len(row)}")
        yield place, dict(zip(columns, (cell.strip() for cell in row), strict=True))


def _collectives(source: str, found: Sequence[Measured], stated: Stated) -> Evidence:
    split, says = parse_fit(stated.fit or _allowed(found))
    answers, machine, unanswered = hold_out(found, split, dict(stated.links))
    if not answers:
        raise MachineError(f"{source}: none of the {len(unanswered)} measurements held out can be forecast from those that were fitted; state the links with --link")  # fmt: skip
    fitted, _ = split(found)
    most = max(each.ranks for each in fitted)
    if machine.links:
        says += f", given the {' and '.join(f'{tier} link' for tier in machine.links)}"
    if unanswered:
        says += f"; {len(unanswered)} were not forecast, for nothing tells of them"
    cases = tuple(_judged(each, most) for each in answers)
    return Evidence(source, says, cases, num_fitted=len(fitted))


def _allowed(found: Sequence[Measured]) -> str:
    """Return the harder of the splits that ``found`` allows: from few ranks to many, else between sizes."""
    ranks = {each.ranks for each in found}
    if min(ranks, default=0) <= SMALL_RANKS < max(ranks, default=0):
        return f"ranks<={SMALL_RANKS}"
    return EVERY_OTHER_SIZE


def _judged(answer: HeldOut, most_ranks: int) -> Judged:
    measured = answer.measured
    label = f"{measured.operation} {measured.nbytes} B on {measured.ranks} ranks, {measured.nodes} nodes"  # fmt: skip
    return Judged(
        label, f"{label}, {measured.place}", measured.time_s, answer.forecast_s, answer.low_s,
        answer.high_s, extrapolation=max(1.0, measured.ranks / most_ranks),
        what=measured.operation, ranks=measured.ranks, nbytes=measured.nbytes,
    )  # fmt: skip


def _rates(path: Path, text: str, columns: Sequence[str], stated: Stated) -> Evidence:
    """Return the evidence in a table of training rates, by model and number of devices."""
    if not stated.links:
        raise MachineError(f"{path} has rates and no messages; state the link with --link, as node=20GB/s,10us")  # fmt: skip
    per_node = stated.layout.ranks_per_node
    rates = [_rate(place, row, stated) for place, row in _rows(path, text, columns)]
    machine = Machine(format="stepcast-machine-1", name="stated links", description="", provenance={}, links=dict(stated.links))  # fmt: skip
    answers = hold_out_rates(rates, machine, per_node or max((each.ranks for each in rates), default=1))  # fmt: skip
    if not answers:
        raise MachineError(f"{path} must have rates on more than one device, got none")
    cases = []
    for each in answers:
        samples = each.rate.batch * each.rate.ranks
        label = f"{each.rate.model}, batch {each.rate.batch}, on {each.rate.ranks}"
        cases.append(Judged(
            label, label, samples / each.rate.samples_per_s, samples / each.samples_per_s,
            samples / each.high, samples / each.low, extrapolation=float(each.rate.ranks),
            what=f"{each.rate.model}, batch {each.rate.batch}", ranks=each.rate.ranks,
        ))  # fmt: skip
    says = f"the rate on one device and the parameters of each model given, and the {' and '.join(f'{tier} link' for tier in stated.links)}"  # fmt: skip
    return Evidence(path.name, says, tuple(cases), num_fitted=len(rates) - len(cases))


def _rate(place: str, row: Mapping[str, str], stated: Stated) -> Rate:
    def number(names: Sequence[str]) -> float:
        name = next((each for each in names if each in row), None)
        if name is None:
            refuse(place, f"the table must have a column {' or '.join(names)}, got {', '.join(row)}")  # fmt: skip
        try:
            value = float(row[name])
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            refuse(place, f"{name} must be a number greater than 0, got {row[name] or 'nothing'}")
        return value

    model = row.get("model", "")
    if "parameters" in row:
        parameters = int(number(("parameters",)))
    elif model in stated.parameters:
        parameters = stated.parameters[model]
    else:
        refuse(place, f"{model or 'the model'} must have parameters; add a column or give --parameters {model or 'MODEL'}=25.6M")  # fmt: skip
    return Rate(model, parameters, int(number(_BATCHES)), int(number(_RANKS)), number(_RATES))
