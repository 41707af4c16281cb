"""Results: the committed measurements, read and checked, and the numbers that the report quotes."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.find import find_machine
from calibration.machine import Machine, read_machine
from exec.errors import DataError
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.compare import SERVING, Setting, compared, schemes
from sim.evidence_runs import LETTERS_SAMPLES, forecast_slow, judge_check, judge_scheme
from sim.forecast import Engine, Forecast, forecast

MEASUREMENTS = Path(__file__).parent / "measurements"
MACHINE_FILE = MEASUREMENTS / "machine-2core-epyc.json"
CHECK_FILE = MEASUREMENTS / "check-2core-epyc.jsonl"
CONV_CHECK_FILE = MEASUREMENTS / "check-conv-2core-epyc.jsonl"
MEMORY_FILE = MEASUREMENTS / "memory-2core-epyc.jsonl"
PLAN_MEMORY_FILE = MEASUREMENTS / "plan-memory-2core-epyc.jsonl"
MNIST_FILE = MEASUREMENTS / "mnist-2core-epyc.jsonl"
TRAINER_FILE = MEASUREMENTS / "trainer-2core-epyc.jsonl"
SCHEMES_FILE = MEASUREMENTS / "schemes-2core-epyc.jsonl"
SLOW_FILE = MEASUREMENTS / "slow-node-2core-epyc.jsonl"
LETTERS_FILE = MEASUREMENTS / "letters-2core-epyc.json"

COMPARED = (("128-100-26", 1024), ("784-512-512-26", 4096))  # network and batch, on 64 nodes
RANKS_PER_NODE = 2  # as measured: both cores of a node
MOST_NODES = 64
NETWORKS = ("ethernet-cluster", "infiniband-cluster")

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Measured and forecast speedups of one network over ranks, on one interconnect."""

    net: str
    batch: int
    network: str
    measured: dict[int, float]
    forecasts: tuple[Forecast, ...]
    serial: Forecast


def read_records(path: Path) -> tuple[Record, list[Record]]:
    """Return the provenance and the other records of a JSON-lines file.

    Raises:
        DataError: the file is absent or its first record is no provenance.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must hold JSON lines: {error}") from error
    if not records or records[0].get("kind") != "provenance":
        raise DataError(f"{path}, line 1 must be the provenance record")
    return records[0], records[1:]


def forecast_anew(checks: list[Record], machine: Machine) -> list[Record]:
    """Return what ``checks`` measured beside what is forecast of it today."""
    found = []
    for check in checks:
        solved = judge_check(check, machine)
        found.append(check | {
            "solved_s": solved.forecast_s, "error": solved.error,
            "solved_low_s": solved.low_s, "solved_high_s": solved.high_s,
            "simulated_s": judge_check(check, machine, Engine.SIMULATE).forecast_s,
        })  # fmt: skip
    return found


def _measured(record: Record) -> Record:
    """Return what a record says of a run, without what was forecast of it when it was written."""
    of_forecasts = ("forecast", "simulated", "solved", "error")
    return {name: value for name, value in record.items() if not name.startswith(of_forecasts)}


def schemes_anew(head: Record, ran: list[Record], machine: Machine) -> list[Record]:
    """Return what each scheme measured beside what is forecast of it today, where anything is."""
    found = []
    for row in ran:
        judged = judge_scheme(head | row, machine)
        told = {"forecast_s": judged.forecast_s, "error": judged.error} if judged else {}
        found.append(_measured(row) | told)
    return found


def slow_anew(head: Record, ran: list[Record], machine: Machine) -> list[Record]:
    """Return what a slow rank measured beside what is forecast of it today, its share of gradients too."""
    found = []
    for row in ran:
        answer = forecast_slow(head | row, machine)
        came = answer.arrivals
        found.append(_measured(row) | {
            "forecast_s": answer.epoch_time_s(head["samples"]),
            "forecast_slow_share": came.count(answer.ranks - 1) / len(came) if came else None,
        })  # fmt: skip
    return found


def scalings(checks: list[Record]) -> list[Scaling]:
    """Return the speedups of each data-parallel case that was measured on one and two ranks."""
    serial_s = {(c["net"], c["batch"]): c["measured_s"] for c in checks if c["ranks"] == 1}
    found = []
    for case in checks:
        key = (case["net"], case["batch"])
        is_plain = (
            case["strategy"] == "data" and case["algorithm"] == "library" and not case["overlap"]
        )
        if is_plain and key in serial_s:
            measured = {1: 1.0, case["ranks"]: serial_s[key] / case["measured_s"]}
            found += [_scaling(*key, network, measured) for network in NETWORKS]
    return found


def _scaling(net: str, batch: int, network: str, measured: dict[int, float]) -> Scaling:
    machine = read_machine(MACHINE_FILE).combined_with(find_machine(network))
    workload = Workload(parse_net(net), batch)
    counts = [1 << i for i in range((RANKS_PER_NODE * MOST_NODES).bit_length())]
    answers = [_at(machine, workload, ranks) for ranks in counts if ranks <= batch]
    return Scaling(net, batch, network, measured, tuple(answers), answers[0])


def _at(machine: Machine, workload: Workload, ranks: int) -> Forecast:
    return forecast(machine, workload, Mesh(dp=ranks), PlanOptions(), ranks_per_node=RANKS_PER_NODE)


def setting_of(net: str, batch: int) -> Setting:
    """Return what the schemes are compared on: this machine's cores, and the Ethernet cluster."""
    machine = read_machine(MACHINE_FILE).combined_with(find_machine("ethernet-cluster"))
    return Setting(machine, Workload(parse_net(net), batch), 1, LETTERS_SAMPLES)


def _comparison(net: str, batch: int) -> Record:
    setting = setting_of(net, batch)
    serial = forecast(setting.machine, setting.workload, Mesh(), epoch_samples=LETTERS_SAMPLES)
    return compared(setting, serial, list(schemes(PlanOptions(), SERVING)), MOST_NODES)


def numbers() -> Record:
    """Return every number that the report quotes."""
    machine = read_machine(MACHINE_FILE)
    assert machine.compute is not None
    checks = forecast_anew(read_records(CHECK_FILE)[1], machine)
    trainer_provenance, trainer = read_records(TRAINER_FILE)
    schemes_head, ran = read_records(SCHEMES_FILE)
    conv_checks = forecast_anew(read_records(CONV_CHECK_FILE)[1], machine)
    letters = json.loads(LETTERS_FILE.read_text(encoding="utf-8"))
    return {
        "provenance": machine.provenance,
        "machine": {
            "kernels": [
                {
                    "name": kernel.value,
                    "fixed_us": model.coefficients_s["fixed"] * 1e6,
                    "rel_sigma": model.rel_sigma,
                    "num_samples": model.num_samples,
                }
                for kernel, model in machine.compute.kernels.items()
            ],
            "busy_slowdown": machine.compute.busy_slowdown,
            "noise": machine.compute.noise_rel_sigma,
            "overlap_share": machine.overlap_share,
        },
        "checks": checks,
        "errors": _errors(checks),
        "conv_checks": conv_checks,
        "conv_errors": _errors(conv_checks),
        "memory": read_records(MEMORY_FILE)[1],
        "plan_memory": read_records(PLAN_MEMORY_FILE)[1],
        "mnist": read_records(MNIST_FILE)[1],
        "trainer": {
            "provenance": trainer_provenance,
            "rows": [row for row in trainer if row["kind"] == "trainer"],
        },
        "letters": {
            "accuracy": letters["epochs"][-1]["test_accuracy"],
            "epochs": len(letters["epochs"]),
            "batch": letters["batch"],
            "net": letters["net"],
            "step_time_us": letters["step_time_s"] * 1e6,
        },
        "slow": slow_anew(*read_records(SLOW_FILE), machine),
        "schemes": {"provenance": schemes_head, "rows": schemes_anew(schemes_head, ran, machine)},
        "comparisons": [_comparison(*each) for each in COMPARED],
        "scalings": [_scaling_numbers(each) for each in scalings(checks)],
    }


def _errors(checks: list[Record]) -> Record:
    """Return how far the forecasts of ``checks`` missed, where ranks had cores of their own."""
    real = [check for check in checks if not check["oversubscribed"]]
    errors = sorted(abs(check["error"]) for check in real)
    return {
        "count": len(errors),
        "median": statistics.median(errors),
        "least": errors[0],
        "most": errors[-1],
        "inside": sum(c["solved_low_s"] <= c["measured_s"] <= c["solved_high_s"] for c in real),
        "engines_apart": max(abs(c["simulated_s"] / c["solved_s"] - 1.0) for c in checks),
    }


def _scaling_numbers(scaling: Scaling) -> Record:
    top = max(scaling.forecasts, key=lambda each: each.samples_per_s)
    speedup, low, high = top.speedup_over(scaling.serial)
    return {
        "net": scaling.net, "batch": scaling.batch, "network": scaling.network,
        "best_ranks": top.ranks, "best_speedup": speedup, "best_low": low, "best_high": high,
    }  # fmt: skip
