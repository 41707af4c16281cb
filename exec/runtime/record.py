"""The record of a training: for machines as JSON, for people as a few lines."""

import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from exec.data.dataset import Dataset
from exec.plan.step import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.ops import Algorithm
from exec.runtime.report import breakdown, cpu_model, num_cores, software
from exec.runtime.session import TIMED_EVERY, Epoch, Session, TrainingPlan


def headline(plan: TrainingPlan, dataset: Dataset, strategy: Strategy, ranks: int) -> str:
    """Return what is about to be trained, in two lines."""
    workload, options = plan.workload, plan.options
    return (
        f"{workload.net} on {dataset.name} ({len(dataset.train_labels)} training, "
        f"{len(dataset.test_labels)} test samples; {dataset.source})\n"
        f"strategy {strategy} on {ranks} rank{'s' * (ranks > 1)} (dp x pp x tp = {plan.mesh}), batch "
        f"{workload.global_batch}, {options.num_microbatches} microbatch"
        f"{'es' * (options.num_microbatches > 1)}, {plan.dtype}, all-reduce {options.algorithm}"
        f"{_nodes(options)}{', overlapped' * options.overlap}"
    )


def _nodes(options: PlanOptions) -> str:
    if options.algorithm is not Algorithm.HIERARCHICAL:
        return ""
    return f" ({options.ranks_per_node} rank{'s' * (options.ranks_per_node > 1)} a node)"


def training_record(
    session: Session, dataset: Dataset, strategy: Strategy, epochs: list[Epoch], *,
    is_oversubscribed: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the record of a training; all ranks must call it together."""
    plan, wire = session.plan, session.transport
    is_hierarchical = plan.options.algorithm is Algorithm.HIERARCHICAL
    times = session.step_times_s[5:] or session.step_times_s
    timed = sum(span.name.startswith("update") for span in session.spans)
    parts = breakdown(session.spans, timed, wire)
    memory = wire.gather_objects(session.buffers.nbytes)
    step_time_s = statistics.median(times) if times else None
    deciles = statistics.quantiles(times, n=10) if len(times) > 1 else [step_time_s] * 9
    return {
        "strategy": strategy,
        "ranks": wire.size,
        "mesh": {"dp": plan.mesh.dp, "pp": plan.mesh.pp, "tp": plan.mesh.tp},
        "net": plan.workload.net,
        "batch": plan.workload.global_batch,
        "data": dataset.name,
        "dtype": plan.dtype,
        "algorithm": plan.options.algorithm,
        "ranks_per_node": plan.options.ranks_per_node if is_hierarchical else None,
        "schedule": plan.options.schedule,
        "microbatches": plan.options.num_microbatches,
        "overlap": plan.options.overlap,
        "step_time_s": step_time_s,
        "step_time_p10_s": deciles[0],
        "step_time_p90_s": deciles[-1],
        "samples_per_s": plan.workload.global_batch / step_time_s if step_time_s else None,
        "epochs": [asdict(epoch) for epoch in epochs],
        "timed_step": asdict(parts) | {"count": timed, "one_in": TIMED_EVERY} if timed else None,
        "memory_bytes": max(memory),
        "oversubscribed": is_oversubscribed,
        "provenance": {
            "cpu": cpu_model(),
            "cores": num_cores(),
            **software(),
            "transport": wire.library,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def summary(record: dict[str, Any]) -> str:
    """Return the times of ``record`` for people."""
    step_s = record["step_time_s"]
    if step_s is None:
        return "no full step was timed"
    head = (
        f"{step_s * 1e6:.1f} us a step (median; one in ten below "
        f"{record['step_time_p10_s'] * 1e6:.1f}, one in ten above "
        f"{record['step_time_p90_s'] * 1e6:.1f}), {record['samples_per_s']:,.0f} samples/s, "
        f"{record['memory_bytes'] / 2**20:.2f} MiB a rank\n"
    )
    parts = record["timed_step"]
    if parts is None:
        return head + "too few steps to tell compute from communication"
    shares = [parts[key] for key in ("compute_s", "exposed_comm_s", "waiting_s")]
    compute, exposed, waiting = (share / (sum(shares) or 1.0) for share in shares)
    return head + (
        f"a step's time: compute {compute:.0%}, exposed communication {exposed:.0%}, "
        f"waiting for others {waiting:.0%}"
    )
