"""Compare ways of sharing the work: ``python -m sim.compare --nodes 64``.

Forecasts every scheme on the same nodes, and says where one overtakes another.
"""

import exec.light  # noqa: F401  # before what allocates

# isort: split
import json as json_format
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from calibration.find import find_machine
from calibration.machine import Machine
from calibration.spelled import spelled, spelled_nodes
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.network.parse import parse_net
from exec.plan.collectives import expand
from exec.plan.epoch import check_plan, plan_epoch
from exec.plan.options import PlanOptions, parse_slow
from exec.plan.strategy import SERVERS, SHARED, UNSOLVED, Strategy
from exec.plan.window import check_placement
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.staleness import staleness_record
from exec.program.traffic import program_nbytes
from exec.workload import Workload, positive
from sim.choices import choices, node_counts
from sim.fastest import fastest
from sim.forecast import EPOCH_SAMPLES, Engine, Forecast, forecast
from sim.placement import placed, reduced
from sim.wiring import ordinary, wired

app = make_app(
    "python -m sim.compare", "Compare ways of sharing the work on nodes you do not have."
)
Flag = Annotated[bool, Parameter(negative=())]

AVERAGED_EVERY = (1, 4, 16, 64, 0)
SERVING = (1, 4)
SEARCHED = (Strategy.PIPELINE, Strategy.TENSOR, Strategy.HYBRID, Strategy.KRIZHEVSKY)
"""Strategies of which the best mesh and number of microbatches is taken."""
_OF_NODES = (Algorithm.HIERARCHICAL, Algorithm.SHARED_WINDOW)
"""Algorithms that take several ranks on a node."""
_MAX_SIMULATED_RANKS = 130
_SLOWEST = 64.0


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to share the work, by the name that the table gives it."""

    name: str
    options: PlanOptions


@dataclass(frozen=True, slots=True)
class Setting:
    """What all schemes are compared on; ``slow`` as in :func:`sim.forecast.forecast`."""

    machine: Machine
    workload: Workload
    ranks_per_node: int
    epoch_samples: int
    slow: tuple[tuple[int, float], ...] = ()

    def forecast(self, scheme: Scheme, nodes: int) -> Forecast | None:
        """Return the forecast of ``scheme`` on ``nodes``, or None where it does not fit."""
        ranks = nodes * self.ranks_per_node
        if scheme.options.strategy in SHARED and nodes > 1:
            return None
        found = self.plan(scheme, nodes)
        if found is None:
            return None
        mesh, options = found
        is_open = options.strategy in UNSOLVED
        return forecast(
            self.machine, self.workload, mesh, options, ranks_per_node=self.ranks_per_node,
            engine=Engine.SIMULATE if is_open and ranks <= _MAX_SIMULATED_RANKS else Engine.SOLVE,
            epoch_samples=self.epoch_samples,
            slow=tuple(each for each in self.slow if each[0] < ranks),
        )  # fmt: skip

    def plan(self, scheme: Scheme, nodes: int) -> tuple[Mesh, PlanOptions] | None:
        """Return the mesh of ``scheme`` on ``nodes`` and how it is used, or None if it does not fit.

        Of the meshes that a scheme may use it is the one whose step is solved to be shortest.
        """
        ranks, options = nodes * self.ranks_per_node, scheme.options
        if options.strategy not in SEARCHED:
            try:
                check_plan(self.workload, Mesh(ranks), options)
                check_placement(Mesh(ranks), placed(options, self.machine), self.ranks_per_node)
            except UsageError:
                return None
            return Mesh(ranks), options
        options = reduced(options, self.machine, Mesh(ranks), self.ranks_per_node)
        fitting = choices(ranks, self.workload, [options.strategy], None, None, options)
        meshes = fitting.get(options.strategy, [])
        return fastest(self.machine, self.workload, options, meshes, self.ranks_per_node,
                       slow=tuple(each for each in self.slow if each[0] < ranks))  # fmt: skip

    def epoch_nbytes(self, answer: Forecast) -> float:
        """Return what all ranks together send in an epoch."""
        segments = plan_epoch(self.workload, answer.mesh, answer.options, self.epoch_samples)
        sent = {id(each.program): program_nbytes(expand(each.program)) for each in segments}
        return sum(each.times * sent[id(each.program)] for each in segments)


def schemes(base: PlanOptions, servers: Sequence[int]) -> Iterator[Scheme]:
    """Yield the schemes to compare, with as many servers each as ``servers`` says."""
    data = replace(base, strategy=Strategy.DATA)
    for algorithm in Algorithm:
        if algorithm not in _OF_NODES or base.ranks_per_node > 1:
            yield Scheme(f"all-reduce, {algorithm}", replace(data, algorithm=algorithm))
    for strategy in SEARCHED:
        yield Scheme(str(strategy), replace(base, strategy=strategy))
    base = replace(base, sync_batchnorm=False)
    for every in AVERAGED_EVERY:
        options = replace(base, strategy=Strategy.AVERAGING, average_every=every)
        yield Scheme(f"averaging every {every or 'epoch'}", options)
    for strategy in (Strategy.MASTER_ROUND_TRIP, Strategy.MASTER_BROADCAST):
        yield Scheme(str(strategy), replace(base, strategy=strategy))
    for strategy in (Strategy.SERVER, Strategy.ASYNC_SERVER):
        for count in servers:
            options = replace(base, strategy=strategy, servers=count)
            yield Scheme(f"{strategy}, {count} serving", options)
    for strategy in SHARED:
        yield Scheme(str(strategy), replace(base, strategy=strategy))


@app.default
def compare(
    *,
    nodes: int = 64,
    ranks_per_node: int = 1,
    machine: str = "local+ethernet-cluster",
    net: str = "128-100-26",
    batch: int = 1024,
    servers: tuple[int, ...] = (),
    slow: tuple[str, ...] = (),
    fabric: str | None = None,
    slow_link: tuple[str, ...] = (),
    sync_batchnorm: Flag = False,
    epoch_samples: int = EPOCH_SAMPLES,
    plot: Path | None = None,
    json: Flag = False,
) -> None:
    """Forecast every way of sharing the work, and say where one overtakes another.

    Parameters
    ----------
    nodes
        How many nodes.
    ranks_per_node
        Ranks on each node; they share its cores and its network link.
    machine
        A shipped Machine, local (this machine's profile) or a file; a+b takes from b what a lacks.
    net
        Widths of the layers, the name of a network such as resnet18, or a TOML or ONNX file.
    batch
        The global batch.
    servers
        How many ranks serve parameters; may be repeated to compare several numbers; 1 and 4
        unless given.
    slow
        A slow rank, as 1=2.5 (rank 1 takes 2.5 times as long to compute); may be repeated.
    fabric
        How nodes are joined: star, tree:racks=2,uplink=200Mbit, tree:per-rack=16,oversubscription=4
        or torus:4x4, with hop-us=1 for microseconds a hop; that of the machine unless given.
    slow_link
        A node's slow link, as 3=0.2 (a fifth of the rate) or 3=20Mbit; may be repeated.
    sync_batchnorm
        Let the ranks of schemes that take every step together normalise by the whole batch.
    epoch_samples
        Samples in an epoch.
    plot
        Draw the epoch times against the nodes into this SVG, PNG or PDF file.
    json
        Print one JSON record instead of a table.
    """
    for option, value in (("nodes", nodes), ("ranks-per-node", ranks_per_node), ("epoch-samples", epoch_samples),
                          *(("servers", each) for each in servers)):  # fmt: skip
        positive(option, value)
    if nodes * ranks_per_node > 1 << 14:
        raise UsageError(f"nodes x ranks-per-node must be at most 16,384, got {nodes * ranks_per_node}")  # fmt: skip
    if plot is not None and (plot.suffix not in (".svg", ".png", ".pdf") or not plot.absolute().parent.is_dir()):  # fmt: skip
        raise UsageError(f"plot must be an .svg, .png or .pdf file in a folder that exists, got {plot}")  # fmt: skip
    plain = find_machine(machine)
    found = wired(plain, fabric, slow_link, nodes)
    itemsize = 8 if found.compute is not None and found.compute.dtype == "float64" else 4
    workload = Workload(parse_net(net), batch, itemsize)
    slowness = parse_slow(slow, nodes * ranks_per_node)
    setting = Setting(found, workload, ranks_per_node, epoch_samples, slowness)
    serial = forecast(ordinary(found), workload, Mesh(), epoch_samples=epoch_samples)
    for count in servers:
        options = PlanOptions(strategy=Strategy.SERVER, servers=count)
        check_plan(workload, Mesh(nodes * ranks_per_node), options)
    base = PlanOptions(ranks_per_node=ranks_per_node, sync_batchnorm=sync_batchnorm)
    chosen = list(schemes(base, servers or SERVING))
    record = compared(setting, serial, chosen, nodes)
    if not record["rows"]:
        check_plan(workload, Mesh(nodes * ranks_per_node), PlanOptions(strategy=Strategy.DATA))
    told = {
        "slow": replace(setting, slow=()) if slow else None,
        "fabric": replace(setting, machine=wired(plain, None, slow_link, nodes)) if fabric else None,
        "slow-link": replace(setting, machine=wired(plain, fabric, (), nodes)) if slow_link else None,
    }  # fmt: skip
    record["idle_options"] = [
        name
        for name, without in told.items()
        if without is not None and _changes_nothing(chosen, setting, without, nodes)
    ]
    if plot is not None:
        from sim.plot import draw_comparison  # noqa: PLC0415  # matplotlib, only when asked for

        draw_comparison(plot, curves(setting, chosen, nodes), serial.epoch_time_s(setting.epoch_samples), f"{net}, batch {batch}, on {found.name}")  # fmt: skip
    if json:
        print(json_format.dumps(record, allow_nan=False))
    else:
        _print(record)


def compared(
    setting: Setting, serial: Forecast, chosen: Sequence[Scheme], nodes: int
) -> dict[str, Any]:
    """Return the forecasts of the ``chosen`` schemes that fit on ``nodes``, and where they cross."""
    rows = [(scheme, answer) for scheme in chosen if (answer := setting.forecast(scheme, nodes))]
    return {
        "machine": setting.machine.name,
        "net": setting.workload.net,
        "batch": setting.workload.global_batch,
        "nodes": nodes,
        "ranks_per_node": setting.ranks_per_node,
        "slow": {str(rank): factor for rank, factor in setting.slow},
        "fabric": spelled(setting.machine),
        "slow_nodes": spelled_nodes(setting.machine),
        "serial_epoch_s": serial.epoch_time_s(setting.epoch_samples),
        "rows": [_row(setting, serial, scheme, answer) for scheme, answer in rows],
        "crossovers": list(crossovers(setting, serial, chosen, nodes)) if rows else [],
    }


def _changes_nothing(chosen: Sequence[Scheme], one: Setting, other: Setting, nodes: int) -> bool:
    """Say whether all schemes take as long in one setting as in the other."""
    for scheme in chosen:
        times = one.forecast(scheme, nodes), other.forecast(scheme, nodes)
        if times[0] and times[1] and times[0].step_time_s != times[1].step_time_s:
            return False
    return True


def curves(
    setting: Setting, chosen: Sequence[Scheme], nodes: int
) -> dict[str, list[tuple[int, float]]]:
    """Return ``(nodes, seconds of an epoch)`` of each scheme, by its name."""
    return {
        scheme.name: [
            (count, answer.epoch_time_s(setting.epoch_samples))
            for count in node_counts(nodes)
            if (answer := setting.forecast(scheme, count)) is not None
        ]
        for scheme in chosen
    }


def crossovers(
    setting: Setting, serial: Forecast, compared: Sequence[Scheme], nodes: int
) -> Iterator[dict[str, Any]]:
    """Yield where one scheme overtakes another, each with the question that it answers.

    Thresholds are searched by bisection, so between two of them a scheme must not win twice.
    """
    ring = next(each for each in compared if each.options.algorithm is Algorithm.RING)
    compared = [
        each
        for each in compared
        if each.options.strategy not in SEARCHED and setting.forecast(each, nodes) is not None
    ]
    for scheme in compared:
        if scheme.options.strategy is Strategy.SERVER:
            yield _loses_from(setting, scheme, ring, nodes)
    if not compared:
        return
    yield from _averaging_pays(setting, serial, compared, nodes)
    for scheme in compared:
        if scheme.options.strategy is Strategy.ASYNC_SERVER:
            yield _wins_when_slow(setting, scheme, compared, nodes)


def _loses_from(setting: Setting, scheme: Scheme, ring: Scheme, nodes: int) -> dict[str, Any]:
    def loses(count: int) -> bool:
        theirs, ours = setting.forecast(scheme, count), setting.forecast(ring, count)
        return bool(theirs and ours and theirs.step_time_s > ours.step_time_s)

    least = scheme.options.servers + 1
    at = _first(loses, -(-least // setting.ranks_per_node), nodes)
    says = f"{scheme.name}: slower than the ring all-reduce "
    says += f"from {at} node{'s' * (at > 1)} on" if at else f"on no number of nodes up to {nodes}"
    return {"question": "server_loses_from_nodes", "scheme": scheme.name, "answer": at, "says": says}  # fmt: skip


def _averaging_pays(
    setting: Setting, serial: Forecast, chosen: Sequence[Scheme], nodes: int
) -> Iterator[dict[str, Any]]:
    base = replace(chosen[0].options, sync_batchnorm=False)
    most = max(1, setting.epoch_samples // setting.workload.global_batch)

    def time_s(every: int) -> float:
        options = replace(base, strategy=Strategy.AVERAGING, average_every=every)
        answer = setting.forecast(Scheme("", options), nodes)
        return math.inf if answer is None else answer.step_time_s

    rivals = {"one rank": serial.step_time_s, "the fastest all-reduce": _fastest_s(setting, chosen, nodes)}  # fmt: skip
    for rival, rival_s in rivals.items():
        at = _first(lambda every: time_s(every) < rival_s, 1, most)  # noqa: B023  # called now
        says = f"averaging on {nodes} node{'s' * (nodes > 1)}: faster than {rival} "
        says += f"when weights are averaged every {at} step{'s' * (at > 1)} or less often" if at else f"for no interval up to an epoch of {most} steps"  # fmt: skip
        yield {"question": f"averaging_beats_{rival.replace(' ', '_')}_from_steps", "scheme": "averaging", "answer": at, "says": says}  # fmt: skip


def _fastest_s(setting: Setting, chosen: Sequence[Scheme], nodes: int) -> float:
    """Return the step time of the fastest all-reduce every step."""
    answers = (setting.forecast(each, nodes) for each in chosen if each.options.strategy is Strategy.DATA)  # fmt: skip
    return min((each.step_time_s for each in answers if each is not None), default=math.inf)


def _wins_when_slow(
    setting: Setting, scheme: Scheme, chosen: Sequence[Scheme], nodes: int
) -> dict[str, Any]:
    last = nodes * setting.ranks_per_node - 1  # a worker: the first ranks serve

    def wins(quarter: int) -> bool:
        slowed = replace(setting, slow=((last, 1.0 + quarter / 4.0),))
        found = slowed.forecast(scheme, nodes)
        return found is not None and (found.upper_s or found.step_time_s) < _fastest_s(slowed, chosen, nodes)  # fmt: skip

    at = _first(wins, 0, round(4 * (_SLOWEST - 1)))
    factor = None if at is None else 1.0 + at / 4.0
    says = f"{scheme.name}, on {nodes} nodes of which one rank is slow: faster than the fastest all-reduce "
    if factor is None:
        says += f"not even when that rank takes {_SLOWEST:g} times as long"
    elif factor == 1.0:
        says += "even when none is"
    else:
        says += f"when that rank takes {factor:g} times as long or longer"
    return {"question": "server_wins_from_slowness", "scheme": scheme.name, "answer": factor, "says": says}  # fmt: skip


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the least number from ``low`` to ``high`` from which on ``holds``, by bisection."""
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _row(setting: Setting, serial: Forecast, scheme: Scheme, answer: Forecast) -> dict[str, Any]:
    speedup, low, high = answer.speedup_over(serial)
    return {
        "scheme": scheme.name,
        "strategy": answer.strategy,
        "mesh": {"dp": answer.mesh.dp, "pp": answer.mesh.pp, "tp": answer.mesh.tp},
        "microbatches": answer.options.num_microbatches,
        "stages": [load.first_layer for load in answer.stages],
        "imbalance": answer.imbalance,
        "servers": scheme.options.servers if scheme.options.strategy in SERVERS else None,
        "engine": answer.engine,
        "ranks": answer.ranks,
        "step_time_s": answer.step_time_s,
        "step_time_upper_s": answer.upper_s,
        "epoch_time_s": answer.epoch_time_s(setting.epoch_samples),
        "epoch_nbytes": setting.epoch_nbytes(answer),
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "memory_bytes": answer.memory_bytes,
        "staleness": staleness_record(answer.arrivals) if answer.arrivals else None,
        "extrapolated": list(answer.extrapolated),
    }


def _name(row: dict[str, Any]) -> str:
    """Return what a row is called, with the mesh where the best was searched."""
    if row["strategy"] not in SEARCHED:
        return str(row["scheme"])
    mesh = Mesh(**row["mesh"])
    return f"{row['scheme']} {mesh}" + f", {row['microbatches']} microbatches" * (mesh.pp > 1)


def _print(record: dict[str, Any]) -> None:
    out = console(150)
    out.print(f"{record['net']}, batch {record['batch']}, on {record['nodes']} node{'s' * (record['nodes'] > 1)} of {record['machine']}; "
              f"one rank takes {record['serial_epoch_s'] * 1e3:.3g} ms an epoch\n")  # fmt: skip
    if record["fabric"]:
        out.print(f"fabric: {record['fabric']}\n")
    for line in record["slow_nodes"]:
        out.print(f"{line}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("scheme", "epoch ms", "step us", "speedup", "(90 %)", "MB sent an epoch", "MiB a rank", "staleness", "by"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("scheme", "by") else "right", no_wrap=True)  # fmt: skip
    fastest = min(record["rows"], key=lambda row: row["step_time_s"])
    for row in record["rows"]:
        upper = f" .. {row['step_time_upper_s'] * 1e6:.0f}" if row["step_time_upper_s"] else ""
        table.add_row(
            _name(row), f"{row['epoch_time_s'] * 1e3:.3g}", f"{row['step_time_s'] * 1e6:.0f}{upper}",
            f"{row['speedup']:.2f}", f"{row['speedup_low']:.2f}-{row['speedup_high']:.2f}",
            f"{row['epoch_nbytes'] / 1e6:.4g}", f"{row['memory_bytes'] / 2**20:.3g}",
            f"{row['staleness']['mean']:.1f}" if row["staleness"] else "", f"{row['engine']}{' ~' * bool(row['extrapolated'])}",
            style="bold" if row is fastest else None,
        )  # fmt: skip
    out.print(table)
    out.print()
    for crossing in record["crossovers"]:
        out.print(crossing["says"])
    serving = max((row["servers"] or 0 for row in record["rows"]), default=0)
    if any(int(rank) < serving for rank in record["slow"]):
        out.print("note: the first ranks serve, where there are servers: a slow one of them computes updates only")  # fmt: skip
    for rank, factor in record["slow"].items():
        out.print(f"rank {rank} computes {factor:g} times as long")
    for name in record["idle_options"]:
        out.print(f"note: {name} changes nothing in any of these schemes")
    out.print("accuracy is not forecast: averaging and asynchronous schemes need more epochs for the same; "
              "~ marks what lies beyond measurements, a .. b bounds without a closed form")  # fmt: skip


if __name__ == "__main__":
    run_app(app)
