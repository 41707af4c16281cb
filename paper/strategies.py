"""Which strategy wins for which network: forecasts on the shipped machines, nothing measured here."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from calibration.find import find_machine
from calibration.machine import Machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.workload import Workload
from paper.results import MOST_NODES, NETWORKS
from sim.compare import SEARCHED, Scheme, Setting
from sim.forecast import Forecast, forecast

Record = dict[str, Any]

WON = (("784-512-512-26", 4096), ("cnn", 1024), ("resnet18", 256))  # network and batch
STRATEGIES = (Strategy.DATA, *SEARCHED)
NODES = (2, 4, 8, 16, 32, MOST_NODES)


def strategy_numbers() -> list[Record]:
    """Return for each network and machine the forecasts of every strategy, over nodes of one rank."""
    return [_case(find_machine(name), net, batch) for net, batch in WON for name in NETWORKS]


def _case(machine: Machine, net: str, batch: int) -> Record:
    workload = Workload(parse_net(net), batch)
    setting = Setting(machine, workload, 1, batch)  # an epoch of one step
    serial = forecast(machine, workload, Mesh())
    rows = list(_rows(setting, serial))
    last = [row for row in rows if row["nodes"] == MOST_NODES]
    flops = batch * sum(map(workload.node_flops, range(len(workload.network.nodes))))
    return {
        "net": net,
        "batch": batch,
        "machine": machine.name,
        "nodes": MOST_NODES,
        "serial_step_s": serial.step_time_s,
        "step_flops": flops,
        "weights_bytes": workload.num_parameters * workload.itemsize,
        "rows": rows,
        "winner": max(last, key=lambda row: row["speedup"]),
        "data": next(row for row in last if row["strategy"] == Strategy.DATA),
    }  # fmt: skip


def _rows(setting: Setting, serial: Forecast) -> Iterator[Record]:
    for strategy in STRATEGIES:
        scheme = Scheme(strategy.value, PlanOptions(strategy=strategy))
        for nodes in NODES:
            answer = setting.forecast(scheme, nodes)
            if answer is not None:
                yield _row(setting, serial, strategy, answer)


def _row(setting: Setting, serial: Forecast, strategy: Strategy, answer: Forecast) -> Record:
    speedup, low, high = answer.speedup_over(serial)
    parts = asdict(answer.breakdown)
    return {
        "strategy": strategy,
        "nodes": answer.nodes,
        "mesh": str(answer.mesh),
        "microbatches": answer.options.num_microbatches,
        "step_time_s": answer.step_time_s,
        "speedup": speedup,
        "low": low,
        "high": high,
        "shares": {name.removesuffix("_s"): part / answer.step_time_s for name, part in parts.items()},
        "sent_bytes": setting.epoch_nbytes(answer),
        "imbalance": answer.imbalance,
        "memory_bytes": answer.memory_bytes,
        "is_extrapolated": bool(answer.extrapolated),
    }  # fmt: skip
