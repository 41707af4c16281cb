"""The points of a sweep: every combination of the values given, each a plan on a Machine."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import Any

from calibration.find import find_machine
from calibration.machine import Curve, Machine, Tier
from exec.errors import MachineError, UsageError, unknown_name
from exec.network.network import Network
from exec.network.parse import parse_net
from exec.plan.epoch import check_plan
from exec.plan.nodes import check_nodes
from exec.plan.options import PlanOptions, parse_every
from exec.plan.schedule import Schedule
from exec.plan.strategy import SHARED, Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.sweeps.cells import Cell, Scalar
from exec.workload import Workload
from sim.grid import Point
from sim.placement import reduced


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError("a whole number of at least 1")
    return int(text)


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise ValueError("a factor above 0")
    return value


def _flag(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def _choice(kind: type[StrEnum]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        spelled = text.lower().replace("-", "_")
        if spelled not in list(kind):
            raise ValueError(f"one of {', '.join(kind)}")
        return spelled

    return parse


_PARSERS: Mapping[str, Callable[[str], Scalar]] = {
    "nodes": _whole,
    "batch": _whole,
    "net": str,
    "machine": str,
    "strategy": _choice(Strategy),
    "algorithm": _choice(Algorithm),
    "schedule": _choice(Schedule),
    "ranks_per_node": _whole,
    "pp": _whole,
    "tp": _whole,
    "microbatches": _whole,
    "bucket_kib": _whole,
    "servers": _whole,
    "average_every": lambda text: text if parse_every(text) == 0 else int(text),
    "overlap": _flag,
    "momentum": _flag,
    "sync_batchnorm": _flag,
    "network.bandwidth": _factor,
    "network.latency": _factor,
    "node.bandwidth": _factor,
    "node.latency": _factor,
    "compute.speed": _factor,
}
"""What may vary, and how its values are read; those with a dot are factors of what a Machine says."""

_DEFAULTS: Cell = {
    "strategy": "data", "algorithm": "library", "schedule": "1f1b", "ranks_per_node": 1, "pp": 1, "tp": 1,
    "microbatches": 1, "bucket_kib": 4096, "servers": 1, "average_every": 1, "overlap": False,
    "momentum": False, "sync_batchnorm": False,
}  # fmt: skip
_FACTORS = tuple(name for name in _PARSERS if "." in name)
_UNCHANGED: Cell = dict.fromkeys(_FACTORS, 1.0)
_on_machine = itemgetter("machine", *_FACTORS)
_planned = itemgetter("net", "batch", "nodes", *_DEFAULTS)


def parse_values(name: str, texts: Sequence[str]) -> tuple[str, tuple[Scalar, ...]]:
    """Return the name and the values of an axis, in one spelling.

    Raises:
        UsageError: nothing of that name may vary, a value is none of its, or two are equal.

    >>> parse_values("ranks-per-node", ["1", "02"])
    ('ranks_per_node', (1, 2))
    """
    field_name = name.replace("-", "_")
    if field_name not in _PARSERS:
        raise UsageError(unknown_name("vary", name, [each.replace("_", "-") for each in _PARSERS]))
    values: list[Scalar] = []
    for text in texts:
        try:
            value = _PARSERS[field_name](text)
        except ValueError as error:
            raise UsageError(f"{name} must be {error}, got {text!r}") from error
        if value in values:
            raise UsageError(f"{name} must not repeat a value, got {text} twice")
        values.append(value)
    return field_name, tuple(values)


def combinations(axes: Mapping[str, Sequence[Scalar]]) -> Iterator[Cell]:
    """Yield every combination of the values of ``axes``; the last varies fastest.

    >>> list(combinations({"nodes": (1, 2), "batch": (8,)}))
    [{'nodes': 1, 'batch': 8}, {'nodes': 2, 'batch': 8}]
    """
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


@dataclass(slots=True)
class Points:
    """Points of cells: networks and Machines are read once, and shared."""

    _machines: dict[tuple[Scalar, ...], Machine] = field(default_factory=dict)
    _networks: dict[str, Network] = field(default_factory=dict)
    _options: dict[tuple[Scalar, ...], PlanOptions] = field(default_factory=dict)
    _plans: dict[tuple[Scalar, ...], tuple[Workload, Mesh, PlanOptions]] = field(
        default_factory=dict
    )

    def point(self, cell: Cell) -> Point:
        """Return the point of ``cell``.

        Raises:
            UsageError: the plan does not fit the nodes, the batch or the network.
        """
        full: dict[str, Any] = {**_UNCHANGED, **_DEFAULTS, **cell}
        machine = self._machine(full)
        itemsize = 8 if machine.compute is not None and machine.compute.dtype == "float64" else 4
        device = machine.compute.device if machine.compute is not None else None
        given = {"pp", "tp", "algorithm"} & cell.keys()
        key = itemsize, device, *sorted(given), *_planned(full)
        if key not in self._plans:
            self._plans[key] = self._plan(full, machine, itemsize, given)
        return Point(machine, *self._plans[key], full["ranks_per_node"])

    def _plan(
        self, full: Mapping[str, Any], machine: Machine, itemsize: int, given: Collection[str]
    ) -> tuple[Workload, Mesh, PlanOptions]:
        """Return the plan of a cell, of which all Machines with such devices and numbers have one."""
        strategy = Strategy(full["strategy"])
        workload = Workload(self.network(full["net"]), full["batch"], itemsize, full["momentum"])
        options = self._options_of(full, strategy)
        ranks = full["nodes"] * full["ranks_per_node"]
        pp, tp = (full[name] if name in given else None for name in ("pp", "tp"))
        if strategy is Strategy.DATA and (full["pp"], full["tp"]) != (1, 1):
            strategy = Strategy.HYBRID
        if strategy in SHARED and full["nodes"] > 1:
            raise UsageError(f"nodes must be 1 for strategy {strategy}, whose ranks share a node's memory, got {full['nodes']}")  # fmt: skip
        if strategy is Strategy.HYBRID:
            pp, tp = full["pp"], full["tp"]
        mesh = mesh_of(strategy, ranks, None, pp, tp)
        check_plan(workload, mesh, options)
        if options.algorithm is Algorithm.HIERARCHICAL:
            check_nodes(mesh, full["ranks_per_node"])
        if "algorithm" not in given:
            options = reduced(options, machine, mesh, full["ranks_per_node"])
        return workload, mesh, options

    def network(self, spelled: str) -> Network:
        """Return the network that ``spelled`` names."""
        if spelled not in self._networks:
            self._networks[spelled] = parse_net(spelled)
        return self._networks[spelled]

    def machine(self, spelled: str) -> Machine:
        """Return the Machine that ``spelled`` names."""
        return self._machine(_UNCHANGED | {"machine": spelled})

    def _machine(self, full: Mapping[str, Any]) -> Machine:
        """Return the Machine of a cell, with what it varies."""
        key = _on_machine(full)
        if key not in self._machines:
            if all(full[name] == 1.0 for name in _FACTORS):
                self._machines[key] = find_machine(full["machine"])
            else:
                found = self.machine(full["machine"])
                for name in _FACTORS:
                    if full[name] != 1.0:
                        found = _changed(found, name, full[name])
                self._machines[key] = found
        return self._machines[key]

    def _options_of(self, full: Mapping[str, Any], strategy: Strategy) -> PlanOptions:
        key = tuple(full[name] for name in _DEFAULTS)
        if key not in self._options:
            is_mesh = strategy in (
                Strategy.DATA,
                Strategy.SERIAL,
                Strategy.PIPELINE,
                Strategy.TENSOR,
            )
            self._options[key] = PlanOptions(
                full["microbatches"], Schedule(full["schedule"]), full["bucket_kib"] << 10, full["overlap"],
                Algorithm(full["algorithm"]), Strategy.HYBRID if is_mesh else strategy,
                parse_every(str(full["average_every"])), full["servers"], ranks_per_node=full["ranks_per_node"],
                sync_batchnorm=full["sync_batchnorm"],
            )  # fmt: skip
        return self._options[key]


def _changed(machine: Machine, name: str, factor: float) -> Machine:
    """Return ``machine`` with so many times the bandwidth, the latency or the speed."""
    where, _, what = name.partition(".")
    if where == "compute":
        compute = machine.compute
        if compute is None:
            raise MachineError(f"machine {machine.name} says nothing of compute")
        kernels = {
            kernel: model.model_copy(update={"coefficients_s": {each: value / factor for each, value in model.coefficients_s.items()}})
            for kernel, model in compute.kernels.items()
        }  # fmt: skip
        return machine.model_copy(update={"compute": compute.model_copy(update={"kernels": kernels})})  # fmt: skip
    tier = Tier(where)
    if tier not in machine.links:
        raise MachineError(f"machine {machine.name} has no link of tier {tier} to vary; add a machine that has one")  # fmt: skip
    if machine.collectives:
        raise MachineError(f"machine {machine.name} has collectives that were measured as a whole, so it cannot be said how {name} changes them; vary another machine")  # fmt: skip
    link = machine.links[tier]
    changed = {each: _curve(getattr(link, each), what, factor) for each in ("message", "allreduce")}
    links = {**machine.links, tier: link.model_copy(update=changed)}
    return machine.model_copy(update={"links": links})


def _curve(curve: Curve, what: str, factor: float) -> Curve:
    name, times = ("alpha_s", factor) if what == "latency" else ("beta_s_per_byte", 1.0 / factor)
    segments = tuple(each.model_copy(update={name: getattr(each, name) * times}) for each in curve.segments)  # fmt: skip
    return curve.model_copy(update={"segments": segments})
