"""Runs of the trainer, forecast anew: each record of a committed file beside what is forecast of it today."""

import statistics
from collections.abc import Sequence
from typing import Any

from calibration.machine import Machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.stages import parse_stages
from exec.plan.strategy import Strategy, mesh_of
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.evidence import Judged
from sim.forecast import EPOCH_SAMPLES, Engine, Forecast, forecast

Record = dict[str, Any]

LETTERS_SAMPLES = 47_535
"""Training samples of the letters, fold 0."""
_EPOCHS = {"letters": LETTERS_SAMPLES, "drawn": EPOCH_SAMPLES}
_CALIBRATED_RANKS = 2


def judge_check(record: Record, machine: Machine, engine: Engine = Engine.SOLVE) -> Judged:
    """Return the case of a record of ``sim.check``."""
    mesh = mesh_of(Strategy(record["strategy"]), record["ranks"])
    return _judge_plan(record, machine, mesh, _times_s(record, "measured"), engine)


def judge_scaling(record: Record, machine: Machine) -> Judged:
    """Return the case of a record of strong scaling, whose mesh is spelt out."""
    mesh = Mesh(*map(int, record["mesh"].split("x")))
    return _judge_plan(record, machine, mesh, _times_s(record, "measured"))


def judge_trainer(record: Record, machine: Machine) -> Judged:
    """Return the case of a record of ``benchmarks/trainer.py``: steps of one rank."""
    steps = record["steps_per_round"]
    rounds_s = [each / steps for each in record["times_s"]["stepcast"]]
    times_s = (statistics.median(rounds_s), min(rounds_s), max(rounds_s))
    plan = {"strategy": "serial", "microbatches": 1, "stages": None}
    return _judge_plan(record | plan, machine, Mesh(), times_s)


def judge_training(record: Record, machine: Machine) -> Judged:
    """Return the case of what ``exec.train --json`` printed: the median step, and nine of ten."""
    mesh = record["mesh"]
    times_s = [record[name] for name in ("step_time_s", "step_time_p10_s", "step_time_p90_s")]
    return _judge_plan(record, machine, Mesh(mesh["dp"], mesh["pp"], mesh["tp"]), times_s)


def judge_scheme(record: Record, machine: Machine) -> Judged | None:
    """Return the case of a record of ``benchmarks/schemes.py``, an epoch of some way to share the work.

    None for threads: they share the interpreter's lock, which no Machine knows of.
    """
    if record["transport"] == "threads" and record["ranks"] > 1:
        return None
    algorithm = Algorithm.RING if record["scheme"].endswith(", ring") else Algorithm.LIBRARY
    options = PlanOptions(
        strategy=Strategy(record["strategy"]), algorithm=algorithm,
        average_every=record["average_every"], servers=record["servers"],
    )  # fmt: skip
    mesh = mesh_of(options.strategy, record["ranks"])
    samples = _EPOCHS[record["data"]]
    answer = _with_a_number(machine, record, mesh, options, samples)
    group = f"{record['net']}, batch {record['batch']}, {record['ranks']} ranks"
    label = f"{record['scheme']} on {record['ranks']}"
    return _judged(answer, samples, label, group, _times_s(record, "epoch_time"))


def judge_slow(record: Record, machine: Machine) -> Judged:
    """Return the case of a record of ``benchmarks/slow_node.py``, the last rank so many times slower."""
    answer, factor = forecast_slow(record, machine), record["factor"]
    group = f"two workers, one {factor:g} times slower"
    label = f"{answer.options.strategy}, {factor:g} times slower"
    return _judged(answer, record["samples"], label, group, _times_s(record, "epoch_time"))


def forecast_slow(record: Record, machine: Machine) -> Forecast:
    """Return the simulated forecast of a record of ``benchmarks/slow_node.py``, who comes when included."""
    strategy = Strategy(record["strategy"])
    mesh = Mesh(2) if strategy is Strategy.DATA else Mesh(3)
    return forecast(
        machine, Workload(parse_net(record["net"]), record["batch"]), mesh,
        PlanOptions(strategy=strategy), ranks_per_node=mesh.world_size, engine=Engine.SIMULATE,
        epoch_samples=record["samples"], slow=((mesh.world_size - 1, record["factor"]),),
    )  # fmt: skip


def _times_s(record: Record, name: str) -> tuple[float, float, float]:
    return record[f"{name}_s"], record[f"{name}_low_s"], record[f"{name}_high_s"]


def _cuts(stages: str | list[str] | None) -> str | None:
    """Return where a pipeline is cut: a record may name the first layer of every stage, cut or not."""
    return ",".join(stages[1:]) if isinstance(stages, list) else stages


def _judge_plan(
    record: Record, machine: Machine, mesh: Mesh, times_s: Sequence[float], engine: Engine = Engine.SOLVE
) -> Judged:  # fmt: skip
    """Return the case of a plan on one node; ``times_s`` are its measured step, the least and the most."""
    workload = Workload(parse_net(record["net"]), record["batch"])
    options = PlanOptions(
        record["microbatches"], Schedule(record.get("schedule", Schedule.ONE_F_ONE_B)),
        algorithm=Algorithm(record.get("algorithm", Algorithm.LIBRARY)),
        overlap=record.get("overlap", False), strategy=Strategy(record["strategy"]),
        stages=parse_stages(_cuts(record.get("stages")), workload.network),
        sync_batchnorm=record.get("sync_batchnorm", False),
    )  # fmt: skip
    answer = forecast(machine, workload, mesh, options, ranks_per_node=mesh.world_size, engine=engine)  # fmt: skip
    group = f"{record['net']}, batch {record['batch']}, {mesh.world_size} ranks"
    label = f"{record['net']} {record['batch']} {record['strategy']} {mesh}"
    return _judged(answer, record["batch"], label, group, times_s)


def _with_a_number(machine: Machine, record: Record, mesh: Mesh, options: PlanOptions, samples: int) -> Forecast:  # fmt: skip
    """Return the solved forecast, or where there are but bounds the simulated one."""
    workload = Workload(parse_net(record["net"]), record["batch"])
    for engine in Engine:
        answer = forecast(machine, workload, mesh, options, ranks_per_node=record["ranks"], engine=engine, epoch_samples=samples)  # fmt: skip
        if answer.upper_s is None:
            break
    return answer


def _judged(answer: Forecast, samples: int, label: str, group: str, times_s: Sequence[float]) -> Judged:  # fmt: skip
    """Return the case of ``samples`` trained on in what ``times_s`` say: the middle, the least, the most."""
    forecast_s = answer.epoch_time_s(samples)
    share = forecast_s / answer.step_time_s
    from_s, to_s = answer.interval_s
    measured_s, low_s, high_s = times_s
    return Judged(
        label, group, measured_s, forecast_s, share * from_s, share * to_s,
        (high_s - low_s) / measured_s, max(1.0, answer.ranks / _CALIBRATED_RANKS),
        f"{answer.options.strategy}", answer.ranks,
    )  # fmt: skip
