"""The record of a training: for machines as JSON, for people as a few lines."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from exec.data.dataset import Dataset
from exec.device.kind import DeviceKind
from exec.device.protocol import Device
from exec.network.text import network_digest
from exec.plan.stages import stage_nodes
from exec.plan.strategy import DIFFERING, ROUNDS, SERVERS, Strategy
from exec.plan.window import window_size
from exec.program.ops import Algorithm
from exec.program.staleness import staleness_record
from exec.runtime.monitor import Usage
from exec.runtime.report import breakdown, cpu_model, num_cores, software
from exec.runtime.session import TIMED_EVERY, Epoch, Session
from exec.runtime.training_plan import TrainingPlan
from exec.runtime.utilisation import utilisation_line, utilisation_record
from exec.transport.threads import THREADS

TOO_LATE = 0.02
"""The share of a rank's time by which padded ops may be late before the user is told."""


def device_line(plan: TrainingPlan, description: dict[str, Any]) -> str:
    """Return what computes and what carries messages, if that is not the host alone."""
    if plan.device is DeviceKind.CPU:
        return ""
    rounding = f", TF32 {'on' if plan.is_tf32 else 'off'}" if plan.dtype == "float32" else ""
    return f"on {description['name']}{rounding}; messages by {description['wire']}"


def headline(plan: TrainingPlan, dataset: Dataset, strategy: Strategy, ranks: int) -> str:
    """Return what is about to be trained, in two lines."""
    workload, options = plan.workload, plan.options
    return (
        f"{workload.net} on {dataset.name} ({len(dataset.train_labels)} training, "
        f"{len(dataset.test_labels)} test samples; {dataset.source})\n"
        f"strategy {strategy}{_details(plan)} on {ranks} rank{'s' * (ranks > 1)} (dp x pp x tp = {plan.mesh}), batch "
        f"{workload.global_batch}, {options.num_microbatches} microbatch"
        f"{'es' * (options.num_microbatches > 1)}, {plan.dtype}, all-reduce {options.algorithm}"
        f"{_nodes(plan)}{', overlapped' * options.overlap}"
    )


def _details(plan: TrainingPlan) -> str:
    options = plan.options
    every = f", averaging every {options.average_every or 'epoch'}" if options.strategy in ROUNDS else ""  # fmt: skip
    servers = f", {options.servers} of the ranks serving" if options.strategy in SERVERS else ""
    stages = f", stages from {', '.join(stage_names(plan))}" if plan.mesh.pp > 1 else ""
    slow = "".join(f", rank {rank} {factor:g} times slower" for rank, factor in plan.slowness)
    starts = ", independent starts" * plan.has_independent_starts
    return every + servers + stages + starts + slow + _padding(plan)


def _padding(plan: TrainingPlan) -> str:
    if plan.pacing is None:
        return ""
    noise = f" with noise {plan.pacing.noise}" if plan.pacing.noise else ""
    return f", ops padded to {plan.pacing.pace.multiple:g} times their time{noise}"


def stage_names(plan: TrainingPlan) -> list[str]:
    """Return the first layer of each pipeline stage."""
    network = plan.workload.network
    stages = stage_nodes(network, plan.mesh.pp, plan.options.stages)
    return [network.nodes[stage.start].name for stage in stages]


def _nodes(plan: TrainingPlan) -> str:
    options = plan.options
    if options.algorithm is not Algorithm.HIERARCHICAL:
        return ""
    in_window = ", in shared windows" * (window_size(plan.mesh, options) > 1)
    return f" ({options.ranks_per_node} rank{'s' * (options.ranks_per_node > 1)} a node{in_window})"


def training_record(
    session: Session, dataset: Dataset, strategy: Strategy, epochs: list[Epoch], *,
    is_oversubscribed: bool, usages: Sequence[Usage] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return the record of a training; all ranks must call it together.

    ``sent_bytes`` are all ranks' by the end, tests and all; an epoch's are those of training.
    ``memory`` has what each rank allocated, and by how much the largest process outgrew what it was
    before the first epoch: with the libraries' own memory, and less what loading the data had freed.
    Ranks that are threads share one process, and its growth is that of all of them.
    """
    plan, wire = session.plan, session.transport
    is_hierarchical = plan.options.algorithm is Algorithm.HIERARCHICAL
    times = session.step_times_s()
    times = times[5:] or times
    if strategy in DIFFERING:
        steps = len(dataset.train_labels) / plan.workload.global_batch
        times = [epoch.time_s / steps for epoch in epochs]
    num_timed = session.num_timed if session.place is not None else 0
    timed, parts = breakdown(num_timed, *session.mean_turn(), wire)
    memory = wire.gather_objects((session.buffers.nbytes, session.peak_growth_nbytes))
    allocated, growths = zip(*memory, strict=True)
    arrivals = [each for each in wire.gather_objects(session.arrivals) if each]
    sent_nbytes = sum(wire.gather_objects(session.nbytes_sent))
    step_time_s = statistics.median(times) if times else None
    late_shares = wire.gather_objects(session.late_share)
    slow_s, fast_s = (float(np.percentile(times, each)) if times else None for each in (90, 10))
    return {
        "strategy": strategy,
        "ranks": wire.size,
        "mesh": {"dp": plan.mesh.dp, "pp": plan.mesh.pp, "tp": plan.mesh.tp},
        "net": plan.workload.net,
        "net_digest": network_digest(plan.workload.network),
        "learning_rate": plan.learning_rate,
        "momentum": plan.momentum,
        "seed": plan.seed,
        "batch": plan.workload.global_batch,
        "data": dataset.name,
        "train_samples": len(dataset.train_labels),
        "dtype": plan.dtype,
        "device": session.backend.description() | _rounding(plan),
        "algorithm": plan.options.algorithm,
        "window_ranks": window_size(plan.mesh, plan.options),
        "ranks_per_node": plan.options.ranks_per_node if is_hierarchical else None,
        "schedule": plan.options.schedule,
        "microbatches": plan.options.num_microbatches,
        "stages": stage_names(plan) if plan.mesh.pp > 1 else None,
        "sync_batchnorm": plan.options.sync_batchnorm,
        "overlap": plan.options.overlap,
        "average_every": plan.options.average_every if strategy in ROUNDS else None,
        "independent_starts": plan.has_independent_starts,
        "servers": plan.options.servers if strategy in SERVERS else None,
        "slow": {str(rank): factor for rank, factor in plan.slowness},
        "padded": _padded(plan, late_shares),
        "staleness": staleness_record(arrivals[-1]) if arrivals else None,
        "step_time_s": step_time_s,
        "step_time_p10_s": fast_s,
        "step_time_p90_s": slow_s,
        "samples_per_s": plan.workload.global_batch / step_time_s if step_time_s else None,
        "epochs": [asdict(epoch) for epoch in epochs],
        "timed_step": asdict(parts) | {"count": timed, "one_in": TIMED_EVERY} if timed else None,
        "memory_bytes": max(allocated),
        "memory": {
            "allocated_bytes": list(allocated),
            "peak_growth_bytes": max((each for each in growths if each is not None), default=None),
            "is_growth_of_all_ranks": wire.size > 1 and wire.library == THREADS,
        },
        "sent_bytes": sent_nbytes,
        "sent_bytes_per_epoch": round(statistics.median(each.sent_bytes for each in epochs))
        if epochs
        else None,
        "utilisation": utilisation_record(usages),
        "oversubscribed": is_oversubscribed,
        "provenance": {
            "cpu": cpu_model(),
            "cores": num_cores(),
            **software(),
            **_gpu(session.backend.device, plan),
            "transport": wire.library,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def _padded(plan: TrainingPlan, late_shares: Sequence[float]) -> dict[str, Any] | None:
    """Return how ops were padded, and the largest share of a rank's time by which they were late."""
    if (pacing := plan.pacing) is None:
        return None
    return {
        "multiple": pacing.pace.multiple,
        "source": pacing.pace.source,
        "noise": None if pacing.noise is None else str(pacing.noise),
        "late_share": max(late_shares),
    }


def _rounding(plan: TrainingPlan) -> dict[str, Any]:
    """Return whether the factors of products were rounded: those of float64 never are."""
    return {} if plan.device is DeviceKind.CPU else {"is_tf32": plan.is_tf32 and plan.dtype == "float32"}  # fmt: skip


def _gpu(device: Device | None, plan: TrainingPlan) -> dict[str, Any]:
    """Return the provenance of times on ``device``."""
    return {} if device is None else {"gpu": device.name, **_rounding(plan), **device.software}


def summary(record: dict[str, Any]) -> str:
    """Return the times of ``record`` for people, and the utilisation if it was monitored."""
    used = record["utilisation"]
    return _times(record) + (f"\n{utilisation_line(used)}" if used else "")


def _growth(memory: dict[str, Any]) -> str:
    """Return by how much the largest process grew in training, for people."""
    if (grown := memory["peak_growth_bytes"]) is None:
        return ""
    whose = "all ranks' process" if memory["is_growth_of_all_ranks"] else "process"
    return f" ({whose} grew by {grown / 2**20:.1f} MiB)"


def _times(record: dict[str, Any]) -> str:
    step_s = record["step_time_s"]
    if step_s is None:
        return "no full step was timed"
    head = (
        f"{step_s * 1e6:.1f} us a step ({'by the epoch; ' * (record['strategy'] in DIFFERING)}median; one in ten below "
        f"{record['step_time_p10_s'] * 1e6:.1f}, one in ten above "
        f"{record['step_time_p90_s'] * 1e6:.1f}), {record['samples_per_s']:,.0f} samples/s, "
        f"{record['memory_bytes'] / 2**20:.2f} MiB a rank{_growth(record['memory'])}\n"
    )
    if (stale := record["staleness"]) is not None:
        head += (
            f"staleness of {sum(stale['counts'].values()):,} gradients: mean {stale['mean']:.2f}, median "
            f"{stale['median']}, one in ten at least {stale['p90']}, most {stale['max']}\n"
        )
    if (padded := record["padded"]) is not None and padded["late_share"] > TOO_LATE:
        head += (
            f"note: of a rank's time {padded['late_share']:.0%} is compute beyond what its ops were padded to; "
            f"use a larger multiple or fewer ranks\n"
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
